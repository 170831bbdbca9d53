/*
 * pad.c - greedy selection.
 */
#include "sched/pad.h"

void reef_pad_select(const reef_kernel_cost *rt, unsigned units, const reef_list *queues, reef_launch *launch,
                     reef_vhq *chosen[REEF_LAUNCH_MAX_PADS])
{
    launch->n_pads = 0;
    uint32_t waves = (rt->tiles + units - 1) / units;
    uint32_t slots = waves * units - rt->tiles; /* units without a tile in the last wave */
    for (reef_list *link = queues->next; link != queues && slots && launch->n_pads < REEF_LAUNCH_MAX_PADS;
         link = link->next) {
        reef_vhq *vhq = REEF_CONTAINER(link, reef_vhq, link);
        reef_task *task = vhq->running;
        if (!task || task->cancel || !reef_vhq_quiet(vhq)) {
            continue;
        }
        const reef_device_ops *ops = vhq->dqueue->dev->ops;
        uint32_t kernel = ops->progress(task->instance);
        if (kernel >= task->kernels) {
            continue;
        }
        uint64_t tile_ns = task->costs[kernel].tile_ns;
        uint32_t per_slot = tile_ns ? (uint32_t)(rt->tile_ns / tile_ns) : 0;
        uint32_t left = ops->tiles_left(task->instance);
        if (!per_slot || !left) {
            continue;
        }
        uint64_t room = (uint64_t)slots * per_slot;
        uint32_t tiles = left < room ? left : (uint32_t)room;
        chosen[launch->n_pads] = vhq;
        launch->pads[launch->n_pads++] = (reef_pad){.instance = task->instance, .kernel = kernel, .tiles = tiles};
        slots -= (tiles + per_slot - 1) / per_slot;
    }
}

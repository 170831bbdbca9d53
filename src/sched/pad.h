/*
 * pad.h - choosing best-effort tiles for the spare slots of a real-time kernel (REEF section 5.2).
 */
#ifndef REEF_SCHED_PAD_H
#define REEF_SCHED_PAD_H

#include "queue/vhq.h"

/*
 * Fills launch->pads for RT kernel `rt` on a device of `units` units, greedily over the queues in order, and notes in
 * chosen[] the queues taken (one per pad). A BE tile is taken when it ends within the RT kernel's own time. The paper's
 * second rule, that padding must not lower the RT kernel's occupancy, holds by itself where a unit runs one tile at a
 * time, as on the CPU.
 */
void reef_pad_select(const reef_kernel_cost *rt, unsigned units, const reef_list *queues, reef_launch *launch,
                     reef_vhq *chosen[REEF_LAUNCH_MAX_PADS]);

#endif

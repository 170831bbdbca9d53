/*
 * task.c - ordering tasks, pooling instances.
 */
#include "task/task.h"

#include <stdlib.h>

#include "base/error.h"

void reef_task_enqueue(reef_list *queue, reef_task *task)
{
    /* From the back: arrivals are mostly in order already. */
    reef_list *position = queue;
    if (task->deadline_ns) {
        while (position->prev != queue) {
            const reef_task *before = REEF_CONTAINER(position->prev, reef_task, link);
            if (before->deadline_ns && before->deadline_ns <= task->deadline_ns) {
                break;
            }
            position = position->prev;
        }
    }
    reef_list_insert(position, &task->link);
}

reef_task *reef_task_first(const reef_list *queue)
{
    return reef_list_empty(queue) ? NULL : REEF_CONTAINER(queue->next, reef_task, link);
}

reef_status reef_instances_create(reef_program *program, unsigned n, reef_instances *out, reef_error *error)
{
    const reef_device_ops *ops = program->dev->ops;
    *out = (reef_instances){.free = calloc(n, sizeof(reef_instance *))};
    if (!out->free) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    for (; out->n < n; out->n++, out->n_free++) {
        reef_status status = ops->instance_create(program, &out->free[out->n], error);
        if (status) {
            reef_instances_destroy(out);
            return status;
        }
    }
    return REEF_OK;
}

void reef_instances_destroy(reef_instances *pool)
{
    for (unsigned i = 0; i < pool->n_free; i++) {
        pool->free[i]->program->dev->ops->instance_destroy(pool->free[i]);
    }
    free(pool->free);
    *pool = (reef_instances){0};
}

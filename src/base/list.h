/*
 * list.h - a circular doubly linked list whose nodes are embedded in what they link.
 */
#ifndef REEF_BASE_LIST_H
#define REEF_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct reef_list {
    struct reef_list *next, *prev;
} reef_list;

#define REEF_CONTAINER(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

static inline void reef_list_init(reef_list *head)
{
    head->next = head->prev = head;
}
static inline bool reef_list_empty(const reef_list *head)
{
    return head->next == head;
}
/* Inserts node before position; before the head is at the end. */
static inline void reef_list_insert(reef_list *position, reef_list *node)
{
    node->prev = position->prev;
    node->next = position;
    position->prev->next = node;
    position->prev = node;
}
/* Unlinks node and leaves it a list of its own, so that unlinking twice does no harm. */
static inline void reef_list_remove(reef_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    reef_list_init(node);
}

#endif

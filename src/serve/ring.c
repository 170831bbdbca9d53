#include "serve/ring.h"
reef_status serve_ring_listen(const char *path, int *out, reef_error *error)
{
    (void)path;
    (void)out;
    (void)error;
    return REEF_UNSUPPORTED;
}
reef_status serve_ring_start(serve_server *s, int l, serve_ring **o, reef_error *e)
{
    (void)s;
    (void)l;
    (void)o;
    (void)e;
    return 0;
}
void serve_ring_stop(serve_ring *r)
{
    (void)r;
}

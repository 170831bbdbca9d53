/*
 * client.c - the connection to a server's ring, and its models; see client.h. ring.h has the protocol, call.c the requests.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "client/objects.h"

/* ----------------------------------------------------------------------------------------------------- control -- */

/* Sends a message and reads its answer; *fd gets a descriptor that came along, if wanted. */
static reef_status ask(reef_client *client, const ring_message *message, ring_answer *answer, int *fd,
                       reef_error *error)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec io = {answer, sizeof *answer};
    struct msghdr in = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    if (send(client->fd, message, sizeof *message, MSG_NOSIGNAL) != (ssize_t)sizeof *message) {
        return reef_fail(error, REEF_IO, "the server does not take messages: %s", strerror(errno));
    }
    ssize_t n;
    while ((n = recvmsg(client->fd, &in, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
    }
    int got = -1;
    for (struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&in) : NULL; c; c = CMSG_NXTHDR(&in, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof got)) {
            memcpy(&got, CMSG_DATA(c), sizeof got);
        }
    }
    if (got >= 0 && !fd) {
        close(got);
    } else if (fd) {
        *fd = got;
    }
    if (n != (ssize_t)sizeof *answer || answer->magic != RING_MAGIC) {
        return reef_fail(error, REEF_IO, n == 0 ? "the server closed the connection" : "this is not a reef server");
    }
    answer->message[sizeof answer->message - 1] = 0;
    if (answer->status) {
        bool known = answer->status < REEF_STATUS_COUNT;
        return reef_fail(error, known ? (reef_status)answer->status : REEF_INTERNAL, "%s", answer->message);
    }
    return REEF_OK;
}

static reef_status map_memory(reef_client *client, const ring_answer *welcome, int fd, reef_error *error)
{
    if (fd < 0 || welcome->data_offset < sizeof(ring_shared) || welcome->data_offset > welcome->memory_bytes ||
        welcome->data_bytes > welcome->memory_bytes - welcome->data_offset || welcome->data_offset % RING_ALIGN) {
        return reef_fail(error, REEF_IO, "the server's answer makes no sense");
    }
    client->memory_bytes = welcome->memory_bytes;
    void *memory = mmap(NULL, client->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return reef_fail(error, REEF_NO_MEMORY, "the shared memory cannot be mapped: %s", strerror(errno));
    }
    client->memory = memory;
    client->shared = memory;
    client->data = client->memory + welcome->data_offset;
    client->data_bytes = welcome->data_bytes;
    return REEF_OK;
}

reef_status reef_client_connect(const char *path, const reef_client_options *options, reef_client **out,
                                reef_error *error)
{
    static const reef_client_options defaults;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    options = options ? options : &defaults;
    if (!*path || strlen(path) >= sizeof address.sun_path || options->wake > REEF_WAKE_BLOCK) {
        return reef_fail(error, REEF_INVALID_ARGUMENT,
                         "%s: not the path of a socket (at most %zu bytes), or no way to wait", path,
                         sizeof address.sun_path - 1);
    }
    memcpy(address.sun_path, path, strlen(path) + 1);
    reef_client *client = calloc(1, sizeof *client);
    if (!client) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    client->wake = options->wake;
    pthread_mutex_init(&client->lock, NULL);
    reef_status status = REEF_OK;
    client->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address)) {
        status = reef_fail(error, errno == ENOENT ? REEF_NOT_FOUND : REEF_IO, "%s: %s; is reef serve --ring running?",
                           path, strerror(errno));
    }
    ring_answer *welcome = calloc(1, sizeof *welcome);
    int fd = -1;
    if (!status && !welcome) {
        status = reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    if (!status) {
        ring_message hello = {
            .magic = RING_MAGIC,
            .kind = RING_HELLO,
            .version = RING_VERSION,
            .data_bytes = options->memory_bytes ? options->memory_bytes : (size_t)16 << 20,
        };
        status = ask(client, &hello, welcome, &fd, error);
    }
    status = status ? status : map_memory(client, welcome, fd, error);
    if (fd >= 0) {
        close(fd);
    }
    free(welcome);
    if (status) {
        reef_client_close(client);
        return status;
    }
    *out = client;
    return REEF_OK;
}

void reef_client_close(reef_client *client)
{
    if (!client) {
        return;
    }
    if (client->fd >= 0) {
        close(client->fd); /* the server cancels what is in flight */
    }
    for (size_t i = 0; i < RING_SLOTS; i++) {
        free(client->calls[i]);
    }
    while (client->models) {
        reef_client_model *model = client->models;
        client->models = model->next;
        free(model);
    }
    if (client->memory) {
        munmap(client->memory, client->memory_bytes);
    }
    pthread_mutex_destroy(&client->lock);
    free(client);
}

/* ------------------------------------------------------------------------------------------------------ models -- */

static bool sane(const ring_answer *answer)
{
    bool ok = answer->n_inputs <= RING_TENSORS && answer->n_outputs <= RING_TENSORS && answer->model < RING_MODELS &&
              answer->service_class <= REEF_BE;
    for (size_t i = 0; ok && i < 2 * RING_TENSORS; i++) {
        const ring_tensor *tensor = &answer->tensors[i];
        ok = memchr(tensor->name, 0, sizeof tensor->name) && tensor->rank >= 0 && tensor->rank <= REEF_MAX_RANK &&
             tensor->bytes <= SIZE_MAX / 64;
    }
    return ok;
}

reef_status reef_client_open(reef_client *client, const char *name, const char *version, reef_client_model **out,
                             reef_error *error)
{
    ring_message message = {.magic = RING_MAGIC, .kind = RING_OPEN};
    version = version ? version : "";
    if (strlen(name) >= sizeof message.name || strlen(version) >= sizeof message.model_version) {
        return reef_fail(error, REEF_NOT_FOUND, "no model '%.100s'", name);
    }
    memcpy(message.name, name, strlen(name));
    memcpy(message.model_version, version, strlen(version));
    reef_client_model *model = calloc(1, sizeof *model);
    if (!model) {
        return reef_fail(error, REEF_NO_MEMORY, "out of memory");
    }
    reef_status status = ask(client, &message, &model->described, NULL, error);
    if (!status && !sane(&model->described)) {
        status = reef_fail(error, REEF_IO, "the server's answer makes no sense");
    }
    if (status) {
        free(model);
        return status;
    }
    model->client = client;
    pthread_mutex_lock(&client->lock);
    model->next = client->models;
    client->models = model;
    pthread_mutex_unlock(&client->lock);
    *out = model;
    return REEF_OK;
}

void reef_client_model_close(reef_client_model *model)
{
    if (!model) {
        return;
    }
    reef_client *client = model->client;
    ring_message message = {.magic = RING_MAGIC, .kind = RING_CLOSE, .model = model->described.model};
    ring_answer *answer = malloc(sizeof *answer);
    reef_error error;
    if (answer) {
        ask(client, &message, answer, NULL, &error); /* a server that is gone has closed it */
    }
    free(answer);
    pthread_mutex_lock(&client->lock);
    for (reef_client_model **link = &client->models; *link; link = &(*link)->next) {
        if (*link == model) {
            *link = model->next;
            break;
        }
    }
    pthread_mutex_unlock(&client->lock);
    free(model);
}

size_t reef_client_inputs(const reef_client_model *model)
{
    return model->described.n_inputs;
}

size_t reef_client_outputs(const reef_client_model *model)
{
    return model->described.n_outputs;
}

static bool tensor_info(const ring_tensor *tensor, reef_tensor_info *out)
{
    *out = (reef_tensor_info){
        .name = tensor->name, .dtype = (reef_dtype)tensor->dtype, .rank = tensor->rank, .bytes = tensor->bytes};
    memcpy(out->dims, tensor->dims, sizeof out->dims);
    return true;
}

bool reef_client_input(const reef_client_model *model, size_t i, reef_tensor_info *out)
{
    return i < model->described.n_inputs && tensor_info(&model->described.tensors[i], out);
}

bool reef_client_output(const reef_client_model *model, size_t i, reef_tensor_info *out)
{
    return i < model->described.n_outputs && tensor_info(&model->described.tensors[model->described.n_inputs + i], out);
}

reef_class reef_client_class(const reef_client_model *model)
{
    return (reef_class)model->described.service_class;
}

uint64_t reef_client_solo_ns(const reef_client_model *model)
{
    return model->described.solo_ns;
}

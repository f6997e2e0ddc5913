/*
 * Initialises UCX, if it is given a libucp, and then maps and unmaps for ever. It knows nothing of
 * UCX but the first two fields of ucp_params_t, so that it needs no headers
 * (https://openucx.readthedocs.io/en/master/api/html/group__UCP__CONTEXT.html).
 *
 * usage: unmapper [LIBUCP]    prints "up" once the loop runs
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Unmaps between two rests, and the rest: some 20,000 per second leave the machine to others. */
enum { BURST = 100, REST_NS = 4000000 };

static void *start_ucx(const char *path)
{
    struct {
        uint64_t field_mask;
        uint64_t features;
        char unread[1024];
    } params = { .field_mask = 1 /* features */, .features = 2 | 1 /* RMA, TAG */ };
    void *context = NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    int (*init)(unsigned, unsigned, const void *, const void *, void **);

    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return NULL;
    }
    init = (int (*)(unsigned, unsigned, const void *, const void *, void **))
        dlsym(library, "ucp_init_version");
    if (init == NULL || init(1, 0, &params, NULL, &context) != 0) {
        fprintf(stderr, "ucp_init failed\n");
        return NULL;
    }
    return context;
}

int main(int argc, char **argv)
{
    const struct timespec rest = { .tv_nsec = REST_NS };

    if (argc > 1 && start_ucx(argv[1]) == NULL)
        return 1;
    puts("up");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < BURST; i++) {
            char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (page == MAP_FAILED)
                return 1;
            *page = 1;
            munmap(page, 4096);
        }
        nanosleep(&rest, NULL);
    }
}

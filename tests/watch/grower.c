/*
 * Grows by malloc, as steadily as it is told to, or holds as many mappings as it is told to.
 *
 * usage: grower grow BYTES_PER_10MS     prints "up" and grows for ever
 *        grower maps COUNT              maps so many pages apart from each other, prints "up", and then
 *                                       maps and unmaps one page for ever; on SIGTERM it prints the
 *                                       longest time that one unmap took, in microseconds, and ends
 *        grower hold MIB                the same, holding so many MiB of memory in small pages
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static volatile sig_atomic_t over;

static void end(int signal)
{
    (void)signal;
    over = 1;
}

static void rest(long ns)
{
    const struct timespec time = { .tv_nsec = ns };
    nanosleep(&time, NULL);
}

static long now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void up(void)
{
    puts("up");
    fflush(stdout);
}

static void *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}

static int grow(size_t bytes)
{
    up();
    for (;;) {
        char *kept = malloc(bytes);
        if (kept == NULL)
            return 1;
        memset(kept, 1, bytes);
        rest(10000000);
    }
}

/* Maps and unmaps until it is told to end; what the longest unmap took. */
static int unmap(void)
{
    long longest = 0;

    signal(SIGTERM, end);
    up();
    while (!over) {
        char *page = map(4096);
        long begun;
        *page = 1;
        begun = now_ns();
        munmap(page, 4096);
        if (now_ns() - begun > longest)
            longest = now_ns() - begun;
        rest(100000);
    }
    printf("%ld\n", longest / 1000);
    return 0;
}

int main(int argc, char **argv)
{
    size_t number = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

    if (argc != 3)
        return 2;
    if (strcmp(argv[1], "grow") == 0)
        return grow(number);
    if (strcmp(argv[1], "hold") == 0) {
        char *memory = map(number << 20);
        madvise(memory, number << 20, MADV_NOHUGEPAGE);
        memset(memory, 1, number << 20);
        return unmap();
    }
    /* Neighbours of other rights stay mappings of their own. */
    for (size_t i = 0; i < number; i += 2) {
        char *pages = map(8192);
        *pages = 1;
        mprotect(pages, 4096, PROT_READ);
    }
    return unmap();
}

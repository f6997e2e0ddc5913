// A process to be traced. It does what it is told on stdin, a word per line, and answers each with a line; every way to
// map memory is in a function of its own name.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
#define NAMED __attribute__((noinline, noclone))
#define KEEP __asm__ volatile("")

static char *map(long pages, int flags, void *at) {
    return mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

NAMED void raw_leak(void) {
    syscall(SYS_mmap, 0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KEEP;
}
NAMED void *malloc_leak(void) { void *p = malloc(1 << 20); KEEP; return p; }
NAMED void early_leak(void) { map(5, 0, 0); KEEP; }
NAMED void late_leak(void) { map(7, 0, 0); KEEP; }
NAMED char *fixed_base(void) { char *p = map(8, 0, 0); KEEP; return p; }
NAMED void fixed_over(char *p) { map(2, MAP_FIXED, p + 3 * PAGE); KEEP; }
NAMED char *remap_base(void) { char *p = map(4, 0, 0); KEEP; return p; }
NAMED char *remap_grow(char *p) { p = mremap(p, 4 * PAGE, 12 * PAGE, MREMAP_MAYMOVE); KEEP; return p; }
NAMED char *partial_base(void) { char *p = map(10, 0, 0); KEEP; return p; }
NAMED void brk_grow(void) { sbrk(16 * PAGE); KEEP; }
NAMED void child_leak(void) { map(100, 0, 0); KEEP; }
NAMED void exec_leak(void) { map(11, 0, 0); KEEP; }
NAMED void slow_leak(void) { map(5, 0, 0); KEEP; }
NAMED void churn(void) { munmap(map(16, 0, 0), 16 * PAGE); KEEP; }
NAMED char *resized(void) { char *p = map(16, 0, 0); KEEP; return p; }
NAMED void resize(char *p) {
    mremap(mremap(p, 16 * PAGE, PAGE, 0), PAGE, 16 * PAGE, 0);
    KEEP;
}
NAMED void toucher(char *p, long pages) { for (long i = 0; i < pages; i++) p[i * PAGE] = 1; KEEP; }
NAMED char *many_mappings(long n) {
    char *base = mmap(0, 2 * n * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (long i = 0; i < n; i++)
        if (map(1, MAP_FIXED, base + 2 * i * PAGE) == MAP_FAILED) return 0;
    KEEP;
    return base;
}

static void *library;
static void call_library(void) { ((void (*)(void))dlsym(library, "library_leak"))(); KEEP; }

static sem_t early;
static pthread_barrier_t done;
static void *early_thread(void *arg) {
    for (;;) {
        sem_wait(&early);
        early_leak();
        pthread_barrier_wait(&done);
    }
    return arg;
}
static void *late_thread(void *arg) { late_leak(); return arg; }
static void *late_parent(void *arg) {
    pthread_t t;
    pthread_create(&t, 0, late_thread, 0);
    pthread_join(t, 0);
    return arg;
}

int main(int argc, char **argv) {
    char line[512];
    pthread_t t;
    sem_init(&early, 0, 0);
    pthread_barrier_init(&done, 0, 2);
    pthread_create(&t, 0, early_thread, 0);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "raw")) raw_leak();
        else if (!strcmp(line, "malloc")) malloc_leak();
        else if (!strcmp(line, "early")) { sem_post(&early); pthread_barrier_wait(&done); }
        else if (!strcmp(line, "late")) {
            pthread_create(&t, 0, late_parent, 0);
            pthread_join(t, 0);
        }
        else if (!strcmp(line, "fixed")) fixed_over(fixed_base());
        else if (!strcmp(line, "remap")) remap_grow(remap_base());
        else if (!strcmp(line, "partial")) munmap(partial_base() + 2 * PAGE, 4 * PAGE);
        else if (!strcmp(line, "brk")) brk_grow();
        else if (!strcmp(line, "fork")) {
            pid_t child = fork();
            if (!child) { child_leak(); _exit(0); }
            waitpid(child, 0, 0);
        }
        else if (!strcmp(line, "exec")) execv("/proc/self/exe", argv);
        else if (!strcmp(line, "after-exec")) exec_leak();
        else if (!strncmp(line, "churn ", 6)) {
            long n = atol(line + 6);
            for (long i = 1; i <= n; i++) {
                churn();
                if (i % 1000 == 0) slow_leak();
            }
        }
        else if (!strncmp(line, "resize ", 7)) {
            static char *base;
            if (!base) base = resized();
            long n = atol(line + 7);
            for (long i = 1; i <= n; i++) {
                resize(base);
                if (i % 1000 == 0) slow_leak();
            }
        }
        else if (!strncmp(line, "many ", 5)) {
            if (!many_mappings(atol(line + 5))) { puts("no room"); fflush(stdout); continue; }
        }
        else if (!strcmp(line, "touch")) toucher(map(9, 0, 0), 9);
        else if (!strncmp(line, "dlopen ", 7)) {
            library = dlopen(line + 7, RTLD_NOW);
            call_library();
        }
        else if (!strcmp(line, "library")) call_library();
        else if (!strcmp(line, "dlclose")) dlclose(library);
        else if (!strcmp(line, "exit")) return 0;
        puts("done");
        fflush(stdout);
    }
    return argc < 0;
}

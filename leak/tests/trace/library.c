// A library that maps memory, to be loaded, replaced and unloaded.
#define _GNU_SOURCE
#include <sys/mman.h>

__attribute__((noinline)) void library_leak(void) {
    mmap(0, 13 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    __asm__ volatile("");
}

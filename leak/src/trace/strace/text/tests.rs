use proptest::prelude::*;

use super::*;

fn all(text: &str) -> Vec<Event> {
    let mut parser = Parser::new([7]);
    let mut events = Vec::new();
    for line in text.lines() {
        parser.line(line, &mut |event| events.push(event));
    }
    parser.end(&mut |event| events.push(event));
    events
}

/// As strace 6.1 prints it.
const TEXT: &str = "\
7     mmap(NULL, 12288, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0a679d5000
 > /usr/lib/x86_64-linux-gnu/libc.so.6(syscall+0x19) [0x101829]
 > /tmp/a (b)/victim() [0x1345]
7     clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD, stack=0x7f00, stack_size=0x7fff80} <unfinished ...>
8     munmap(0x7f0a679d5000, 4096 <unfinished ...>
7     <... clone3 resumed> => {parent_tid=[8]}, 88) = 8
8     <... munmap resumed>)             = -1 EINVAL (Invalid argument)
 > /usr/lib/x86_64-linux-gnu/libc.so.6(std::foo(int)+0x7) [0x101a07]
7     clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD, child_tidptr=0x7f) = 9
9     mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7f0a00000000
9     fork()                            = 10
10    brk(NULL)                         = 0x5000
7     mremap(0x7f0a679d5000, 12288, 49152, MREMAP_MAYMOVE|MREMAP_DONTUNMAP) = 0x7f0a66fdc000
7     brk(0x561ed3566000)               = 0x561ed3566000
8     +++ exited with 0 +++
7     execve(\"/bin/true\", [\"true\"], 0x7f /* 3 vars */) = 0
";

#[test]
fn calls_come_with_their_stacks_and_children_are_left_out() {
    let events = all(TEXT);
    let file = |path: &str, function: Option<&str>, offset| TextFrame {
        path: Some(path.to_owned()),
        function: function.map(str::to_owned),
        offset,
    };
    let libc = "/usr/lib/x86_64-linux-gnu/libc.so.6";
    let unmap = Call::Munmap { start: 0x7f0a_679d_5000, len_bytes: 4096 };
    let asked = Remap {
        old_start: 0x7f0a_679d_5000,
        old_len_bytes: 12288,
        new_len_bytes: 49152,
        keep_old: true,
    };
    let done =
        |tid, call, returned, value, frames| Event::Done { tid, call, returned, value, frames };
    let expected = [
        done(
            7,
            Call::Mmap { len_bytes: 12288 },
            Returned::Mmap,
            0x7f0a_679d_5000,
            vec![file(libc, Some("syscall"), 0x10_1829), file("/tmp/a (b)/victim", None, 0x1345)],
        ),
        Event::Begun { tid: 8, call: unmap },
        done(8, unmap, Returned::Munmap, -1, vec![file(libc, Some("std::foo(int)"), 0x10_1a07)]),
        done(7, Call::Mremap(asked), Returned::Mremap, 0x7f0a_66fd_c000, vec![]),
        done(7, Call::Brk, Returned::Brk, 0x561e_d356_6000, vec![]),
        Event::Ended { tid: 8 },
        Event::Exec,
    ];
    assert_eq!(events, expected);
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_left_out(text in "[0-9 a-z(),=<>.+x\\[\\]\n]{0,300}") {
        all(&text);
    }

    #[test]
    fn damaged_text_is_parsed_or_left_out(at in 0..TEXT.len(), byte in 0u8..128, cut in 0..TEXT.len()) {
        let mut bytes = TEXT.as_bytes().to_vec();
        bytes[at] = byte;
        bytes.truncate(cut);
        all(&String::from_utf8_lossy(&bytes));
    }
}

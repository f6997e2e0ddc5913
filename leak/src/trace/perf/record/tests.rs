use proptest::prelude::*;

use super::*;

fn record(kind: u32, misc: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(misc.to_ne_bytes());
    bytes.extend((8 + body.len() as u16).to_ne_bytes());
    bytes.extend(body);
    bytes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn pair(a: u32, b: u32) -> u64 {
    u64::from_ne_bytes([a.to_ne_bytes(), b.to_ne_bytes()].concat().try_into().unwrap())
}

/// A sample: who, when, 4 bytes of the tracepoint, registers, 16 bytes of stack of which 8 were there.
fn sample() -> Vec<u8> {
    let mut body = words(&[pair(7, 8), 1_000, pair(4, 0x2211)]);
    body.extend(words(&[2]));
    body.extend(words(&vec![5; REGISTER_MASK.count_ones() as usize]));
    body.extend(words(&[16, 0xaa, 0xbb, 8]));
    record(9, 0, &body)
}

fn all(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    decode(bytes, |record| records.push(record));
    records
}

#[test]
fn samples_mappings_and_losses_are_decoded_in_their_order() {
    let mut bytes = sample();
    let mut code = words(&[pair(7, 8), 0x40_0000, 0x2000, 0x1000, pair(8, 1), 99, 0]);
    code.extend(words(&[pair(PROT_EXEC, 2)]));
    code.extend(b"/lib/a.so\0\0\0\0\0\0\0");
    code.extend(words(&[pair(7, 8), 2_000]));
    bytes.extend(record(10, 2, &code));
    bytes.extend(record(2, 0, &words(&[1, 17, pair(7, 8), 3_000])));
    let records = all(&bytes);
    assert_eq!(
        records.iter().map(|record| record.time_ns).collect::<Vec<_>>(),
        [1_000, 2_000, 3_000]
    );
    let Body::Sample { pid: 7, tid: 8, raw, stack: Some(stack) } = &records[0].body else {
        panic!("{records:?}")
    };
    assert_eq!(raw, &0x2211u32.to_ne_bytes());
    assert_eq!((stack.sp, &stack.bytes), (5, &words(&[0xaa])));
    let path = "/lib/a.so".to_owned();
    let (start, len_bytes, file_offset, inode) = (0x40_0000, 0x2000, 0x1000, 99);
    assert_eq!(records[1].body, Body::Code { start, len_bytes, file_offset, inode, path });
    assert_eq!(records[2].body, Body::Lost { count: 17 });
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_left_out(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        all(&bytes);
    }

    #[test]
    fn any_body_of_any_kind_is_decoded_or_left_out(
        kind in 0u32..25, misc in any::<u16>(), body in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = record(kind, misc, &body);
        bytes.extend(sample());
        // What follows a record that is damaged inside is still found.
        prop_assert!(all(&bytes).last().is_some_and(|record| record.time_ns == 1_000));
    }

    #[test]
    fn damaged_samples_are_decoded_or_left_out(at in 0usize..100, byte in any::<u8>(), cut in 0usize..200) {
        let mut bytes = sample();
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut % bytes.len()));
        all(&bytes);
    }
}

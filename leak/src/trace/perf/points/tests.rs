use super::*;

/// A tracepoint with a number and u64 fields from offset 16 on.
fn point(id: u16, fields: &[&str]) -> Tracepoint {
    let mut text = format!("ID: {id}\nformat:\n");
    for (i, name) in fields.iter().enumerate() {
        text +=
            &format!("\tfield:unsigned long {name};\toffset:{};\tsize:8;\tsigned:0;\n", 16 + 8 * i);
    }
    Tracepoint::parse(&text).unwrap()
}

fn points() -> Points {
    Points {
        enter_mmap: point(1, &["addr", "len"]),
        exit_mmap: point(2, &["ret"]),
        enter_munmap: point(3, &["addr", "len"]),
        exit_munmap: point(4, &["ret"]),
        enter_mremap: point(5, &["addr", "old_len", "new_len", "flags"]),
        exit_mremap: point(6, &["ret"]),
        enter_brk: point(7, &["brk"]),
        exit_brk: point(8, &["ret"]),
        placed: Some(point(9, &["addr", "length"])),
        fault: None,
    }
}

fn raw(id: u16, values: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes[..2].copy_from_slice(&id.to_ne_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
    bytes
}

#[test]
fn records_say_what_the_call_was() {
    let points = points();
    let said = |id, values: &[u64]| points.said(&raw(id, values));
    assert_eq!(said(1, &[0, 100]), Some(Said::Enter(Call::Mmap { len_bytes: 100 })));
    assert_eq!(said(4, &[-22i64 as u64]), Some(Said::Exit(Returned::Munmap, -22)));
    let asked = Remap { old_start: 1, old_len_bytes: 2, new_len_bytes: 3, keep_old: true };
    assert_eq!(said(5, &[1, 2, 3, 5]), Some(Said::Enter(Call::Mremap(asked))));
    assert_eq!(said(7, &[9]), Some(Said::Enter(Call::Brk)));
    assert_eq!(said(9, &[4096, 8192]), Some(Said::Placed { start: 4096, len_bytes: 8192 }));
    assert_eq!(said(10, &[1, 2]), None);
    assert_eq!(said(1, &[0]), None);
    assert_eq!(points.said(&[]), None);
}

#[test]
fn an_address_that_cannot_be_is_no_step() {
    let said = Said::Placed { start: -12i64 as u64, len_bytes: 4096 };
    assert_eq!(said.step(0, 1, 4096), None);
}

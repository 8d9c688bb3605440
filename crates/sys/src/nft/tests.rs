//! Cases of [`super`].

use super::*;
use crate::{netns, nft::expr as e};

#[test]
fn attributes_are_padded_and_nested() {
    let attrs = Attrs::new().str(1, "ab").nest(2, Attrs::new().u32(3, 1));
    let mut want = vec![];
    want.extend(7u16.to_ne_bytes());
    want.extend(1u16.to_ne_bytes());
    want.extend(b"ab\0\0");
    want.extend(12u16.to_ne_bytes());
    want.extend(0x8002u16.to_ne_bytes());
    want.extend(8u16.to_ne_bytes());
    want.extend(3u16.to_ne_bytes());
    want.extend([0, 0, 0, 1]);
    assert_eq!(attrs.0, want);
    let walked: Vec<_> = attr::walk(&attrs.0).collect();
    assert_eq!(walked[0], (1, &b"ab\0"[..]));
    assert_eq!(walked[1].0, 2);
}

#[test]
fn long_element_lists_are_split() {
    let mut batch = Batch::new();
    let many = (0..5_000u32).map(|n| (n.to_be_bytes().to_vec(), Data::Bytes(vec![0; 8])));
    batch.add_elements(Family::Ip4, "t", "m", many);
    assert!(batch.len() > 1, "{}", batch.len());
    let counted: usize =
        batch.names[1..].iter().map(|n| n.split(' ').nth(1).unwrap().parse::<usize>().unwrap()).sum();
    assert_eq!(counted, 5_000);
}

#[test]
fn the_kernel_takes_what_is_encoded_and_names_what_failed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pin = dir.path().join("ns");
    netns::create(&pin).unwrap();
    let result = netns::run_in(Some(&pin), || {
        let socket = Socket::open().unwrap();
        for family in Family::BOTH {
            let mut batch = Batch::new();
            batch.add_table(family, "t");
            let key = [Field::address(family), Field::Protocol, Field::Port];
            let spec = SetSpec { name: "vips", key: &key, data: SetData::Verdict, dynamic_size: None };
            batch.add_set(family, "t", &spec);
            batch.add_chain(family, "t", "c");
            batch.add_rule(family, "t", "c", vec![e::verdict(Verdict::Return)]);
            let len = family.address_len() as usize + 8;
            batch.add_elements(
                family,
                "t",
                "vips",
                [(vec![1; len], Data::Verdict(Verdict::Goto("c".into())))],
            );
            batch.commit(&socket).unwrap();
        }
        let mut batch = Batch::new();
        batch.add_chain(Family::Ip4, "t", "d");
        batch.delete_chain(Family::Ip4, "t", "c");
        let busy = batch.commit(&socket).unwrap_err();
        let mut batch = Batch::new();
        batch.add_rule(Family::Ip4, "t", "d", vec![e::verdict(Verdict::Return)]);
        let rolled_back = batch.commit(&socket).unwrap_err();
        (busy, rolled_back)
    });
    netns::delete(&pin).unwrap();
    let (busy, rolled_back) = result.unwrap();
    assert_eq!(busy.errno, libc::EBUSY);
    assert!(busy.what.contains("delete chain t c (ip)"), "{busy}");
    // The batch's other message has not happened either.
    assert_eq!(rolled_back.errno, libc::ENOENT, "{rolled_back}");
}

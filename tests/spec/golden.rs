//! Golden vectors of the bytes and hashes that two VMs, or two gateways, must agree on.
//!
//! A change here is a change of format: raise the version in the module that writes it.

use expect_test::{Expect, expect};
use inference_plugin::hash;
use inference_plugin::inflight::Inflight;
use inference_plugin::lease::{Lease, Rank, Turn};
use inference_plugin::load::{Adapters, EndpointLoad, Health, Snapshot};
use inference_plugin::time::Timestamp;
use std::time::Duration;

fn check(bytes: &[u8], expected: Expect) {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii: String = line.iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '.' }).collect();
        text.push_str(&format!("{:<47} {ascii}\n", hex.join(" ")));
    }
    expected.assert_eq(&text);
}

#[test]
fn load_snapshot() {
    let snapshot = Snapshot {
        generation: 7,
        published_at: Timestamp(0x0102_0304_0506),
        endpoints: vec![
            EndpointLoad {
                address: "10.0.0.1:8000".to_owned(),
                health: Health::Up,
                scraped_at: Timestamp(0x0102_0304_0500),
                waiting: Some(3),
                running: Some(4),
                kv_cache_usage: Some(0.5),
                capacity_tokens: Some(8192),
                adapters: Some(Adapters::new(2, vec!["lora-a".to_owned()], vec!["lora-b".to_owned()])),
            },
            EndpointLoad { address: "[::1]:8000".to_owned(), health: Health::Unreachable, ..EndpointLoad::default() },
        ],
    };
    check(
        &snapshot.encode(),
        expect![[r#"
        49 50 6c 64 01 07 00 00 00 00 00 00 00 06 05 04 IPld............
        03 02 01 00 00 02 00 0d 00 31 30 2e 30 2e 30 2e .........10.0.0.
        31 3a 38 30 30 30 01 00 05 04 03 02 01 00 00 1f 1:8000..........
        03 00 00 00 04 00 00 00 00 00 00 3f 00 20 00 00 ...........?....
        00 00 00 00 02 00 00 00 01 06 00 6c 6f 72 61 2d ...........lora-
        61 01 06 00 6c 6f 72 61 2d 62 0a 00 5b 3a 3a 31 a...lora-b..[::1
        5d 3a 38 30 30 30 02 00 00 00 00 00 00 00 00 00 ]:8000..........
    "#]],
    );
}

#[test]
fn in_flight_slot() {
    let mut inflight = Inflight::default();
    inflight.handle_claimed(3, 0x1122_3344_5566_7788, Timestamp(1000));
    let _first = inflight.acquire(0xaaaa, 100);
    let _second = inflight.acquire(0xaaaa, 28);
    let (slot, blob) = inflight.poll_publication(Timestamp(1001)).unwrap();
    assert_eq!(inference_plugin::inflight::key(slot), "ip1/inflight/3");
    check(
        &blob,
        expect![[r#"
        49 50 69 66 01 01 00 00 00 00 00 00 00 88 77 66 IPif..........wf
        55 44 33 22 11 e9 03 00 00 00 00 00 00 01 00 00 UD3"............
        00 aa aa 00 00 00 00 00 00 02 00 00 00 80 00 00 ................
        00 00 00 00 00                                  .....
    "#]],
    );
}

#[test]
fn lease() {
    let mut lease = Lease::new(0x1122_3344_5566_7788, Rank::Singleton, Timestamp(900), Duration::from_millis(200));
    let Turn::Claim { blob, .. } = lease.handle_tick(Timestamp(1000), None) else { panic!("it must claim") };
    assert_eq!(inference_plugin::lease::key(0x1f), "ip1/lease/000000000000001f");
    check(
        &blob,
        expect![[r#"
            49 50 6c 73 01 01 00 00 00 00 00 00 00 88 77 66 IPls..........wf
            55 44 33 22 11 01 84 03 00 00 00 00 00 00 d0 07 UD3"............
            00 00 00 00 00 00                               ......
        "#]],
    );
}

#[test]
fn hashes() {
    let hashes = [
        hash::bytes(b""),
        hash::bytes(b"12345678"),
        hash::bytes(b"123456789"),
        hash::combine(1, 2),
        hash::endpoint("vllm-qwen3-32b", "10.0.0.1:8000"),
    ];
    let text: Vec<String> = hashes.iter().map(|hash| format!("{hash:016x}")).collect();
    expect![[r#"
        952f14f1e8ddc491
        de591ee10545934f
        b476347c83acedcf
        f755adfddbb71978
        cc87f4b18be92f30"#]]
    .assert_eq(&text.join("\n"));
}

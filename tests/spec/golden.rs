//! Golden vectors of the bytes and hashes that two VMs, or two gateways, must agree on.
//!
//! A change here is a change of format: raise the version in the module that writes it.

use expect_test::{Expect, expect};
use inference_plugin::acceptance::{About, Acceptance, Demand, Refused, Standing};
use inference_plugin::ejection::{Ejections, OutlierDetection};
use inference_plugin::flow::table::Table;
use inference_plugin::flow::{FlowControl, Queue, Waiting};
use inference_plugin::hash;
use inference_plugin::inflight::{Inflight, Report, Sent};
use inference_plugin::lease::{Lease, Rank, Turn};
use inference_plugin::load::{Adapters, EndpointLoad, Health, Snapshot};
use inference_plugin::prefix::log::{Addition, PrefixLog};
use inference_plugin::prompt::Prompt;
use inference_plugin::rates::Rates;
use inference_plugin::rng::SplitMix64;
use inference_plugin::room::{self, Look, Place, Room};
use inference_plugin::scan::{self, Wanted};
use inference_plugin::shape::Shape;
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
                labels: [].into(),
                health: Health::Up,
                scraped_at: Timestamp(0x0102_0304_0500),
                waiting: Some(3),
                running: Some(4),
                kv_cache_usage: Some(0.5),
                capacity_tokens: Some(8192),
                adapters: Some(Adapters::new(2, vec!["lora-a".to_owned()], vec!["lora-b".to_owned()])),
                cache_clock: Some(0x0a0b_0c0d),
                started_at: Some(1_700_000_000),
                rates: Some(Rates { prefill_tokens: 4000.0, generated_tokens: 500.0, finished_requests: 2.5 }),
            },
            EndpointLoad {
                address: "[::1]:8000".to_owned(),
                labels: [("tier".to_owned(), "gold".to_owned())].into(),
                health: Health::Unreachable,
                ..EndpointLoad::default()
            },
        ],
    };
    check(
        &snapshot.encode(),
        expect![[r#"
            49 50 6c 64 03 07 00 00 00 00 00 00 00 06 05 04 IPld............
            03 02 01 00 00 02 00 0d 00 31 30 2e 30 2e 30 2e .........10.0.0.
            31 3a 38 30 30 30 00 01 00 05 04 03 02 01 00 00 1:8000..........
            ff 03 00 00 00 04 00 00 00 00 00 00 3f 00 20 00 ............?...
            00 00 00 00 00 02 00 00 00 01 06 00 6c 6f 72 61 ............lora
            2d 61 01 06 00 6c 6f 72 61 2d 62 0d 0c 0b 0a 00 -a...lora-b.....
            00 00 00 00 f1 53 65 00 00 00 00 00 00 7a 45 00 .....Se......zE.
            00 fa 43 00 00 20 40 0a 00 5b 3a 3a 31 5d 3a 38 ..C...@..[::1]:8
            30 30 30 01 04 00 74 69 65 72 04 00 67 6f 6c 64 000...tier..gold
            02 00 00 00 00 00 00 00 00 00                   ..........
        "#]],
    );
}

#[test]
fn in_flight_slot() {
    let mut inflight = Inflight::default();
    inflight.handle_claimed(3, 0x1122_3344_5566_7788, Timestamp(1000));
    let sent = |tokens, adapter| Sent { tokens, adapter, ..Sent::default() };
    let first = inflight.acquire(0xaaaa, sent(100, Some(0xbbbb)), Timestamp(990));
    let _second = inflight.acquire(0xaaaa, sent(28, None), Timestamp(995));
    inflight.answered(&first, Timestamp(998));
    inflight.handle_report(0xaaaa, Report { at: Timestamp(999), waiting: Some(7), kv_cache_usage: Some(0.5) });
    let (slot, blob) = inflight.poll_publication(Timestamp(1001)).unwrap();
    assert_eq!(inference_plugin::inflight::key(slot), "ip1/inflight/3");
    check(
        &blob,
        expect![[r#"
            49 50 69 66 02 01 00 00 00 00 00 00 00 88 77 66 IPif..........wf
            55 44 33 22 11 e9 03 00 00 00 00 00 00 01 00 00 UD3"............
            00 aa aa 00 00 00 00 00 00 02 00 00 00 01 00 00 ................
            00 1c 00 00 00 00 00 00 00 e3 03 00 00 00 00 00 ................
            00 e6 03 00 00 00 00 00 00 01 bb bb 00 00 00 00 ................
            00 00 01 00 00 00 07 e7 03 00 00 00 00 00 00 07 ................
            00 00 00 00 00 00 3f                            ......?
        "#]],
    );
}

#[test]
fn prefix_log() {
    let mut log = PrefixLog::default();
    log.push(Addition { block: 0x0102_0304_0506_0708, endpoint: 0xaaaa });
    log.push(Addition { block: 0x1112_1314_1516_1718, endpoint: 0xbbbb });
    assert_eq!(inference_plugin::prefix::log::key(3), "ip1/prefix/3");
    check(
        &log.poll_publication(0x1122_3344_5566_7788, Timestamp(1000)).unwrap(),
        expect![[r#"
        49 50 70 78 01 02 00 00 00 00 00 00 00 88 77 66 IPpx..........wf
        55 44 33 22 11 02 00 08 07 06 05 04 03 02 01 aa UD3"............
        aa 00 00 00 00 00 00 18 17 16 15 14 13 12 11 bb ................
        bb 00 00 00 00 00 00                            .......
    "#]],
    );
}

#[test]
fn places() {
    assert_eq!(room::shard(0xaabb), 0x3b);
    assert_eq!(room::key(0x3b), "ip1/room/59");
    let mut room = Room::default();
    room.take(0xaabb);
    let place = Place { endpoint: 0xaabb, limit: 4 };
    let look = room.look(0x3b, Some(place), 9, None, |_| false, Timestamp(0x0102_0304_0506));
    let Look::Claim(claim, 1) = look else { panic!("{look:?}") };
    check(
        &claim.blob,
        expect![[r#"
        49 50 72 6d 01 01 00 00 00 00 00 00 00 01 00 00 IPrm............
        00 bb aa 00 00 00 00 00 00 09 00 00 00 00 00 00 ................
        00 02 00 00 00 06 05 04 03 02 01 00 00          .............
    "#]],
    );
}

#[test]
fn acceptance() {
    let mut acceptance = Acceptance::default();
    let standing = Standing { pool: 0xcccc, endpoint: 0xaaaa, in_flight: 3 };
    let demand = Demand { asked: Some(0x1234), tokens: 5000, credentials: 0 };
    acceptance.handle_refused(standing, &Refused { demand, about: About::Room, seconds: 0.5 }, Timestamp(1000));
    acceptance.handle_refused(standing, &Refused { demand, about: About::Asked, seconds: 10.0 }, Timestamp(1000));
    assert_eq!(acceptance.handle_sent(standing, demand, Timestamp(8000)), Some(About::Room));
    assert_eq!(inference_plugin::acceptance::key(3), "ip1/acceptance/3");
    check(
        &acceptance.poll_publication(Timestamp(1000)).unwrap(),
        expect![[r#"
            49 50 61 63 01 01 00 00 00 00 00 00 00 04 00 cc IPac............
            cc 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 ................
            00 00 00 00 00 80 3f 00 00 00 00 e8 03 00 00 00 ......?.........
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ................
            00 00 00 00 00 00 00 00 00 00 00 00 ff ff ff ff ................
            cc cc 00 00 00 00 00 00 1a 09 00 00 00 00 00 80 ................
            00 00 00 00 00 00 80 3f 00 00 00 00 e8 03 00 00 .......?........
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ................
            00 00 00 00 00 00 00 00 00 00 00 00 00 ff ff ff ................
            ff aa aa 00 00 00 00 00 00 01 00 00 00 00 00 00 ................
            00 00 00 00 00 00 00 80 3f 00 00 00 3f e8 03 00 ........?...?...
            00 00 00 00 00 40 1f 00 00 00 00 00 00 b0 36 00 .....@........6.
            00 00 00 00 00 e8 03 00 00 00 00 00 00 01 03 00 ................
            00 00 aa aa 00 00 00 00 00 00 1a 09 00 00 00 00 ................
            00 80 00 00 00 00 00 00 80 3f 00 00 20 41 e8 03 .........?...A..
            00 00 00 00 00 00 40 1f 00 00 00 00 00 00 b0 36 ......@........6
            00 00 00 00 00 00 00 00 00 00 00 00 00 00 01 ff ................
            ff ff ff                                        ...
        "#]],
    );
}

#[test]
fn queue_table() {
    const NOW: Timestamp = Timestamp(0x0102_0304_0506);
    let control = FlowControl::default();
    let mut queue = Queue::default();
    for (id, priority, bytes) in [(1, 7, 300), (2, -2, 5), (3, 7, 1)] {
        let expires = NOW.after(Duration::from_secs(60));
        queue.push(&control, Waiting { id, priority, flow: 0, bytes, since: NOW, deadline: expires, expires });
    }
    let written = Table::default().poll_publication(9, &control, &mut queue, &mut Vec::new(), NOW);
    check(
        &written.unwrap().0,
        expect![[r#"
        49 50 71 75 01 01 00 00 00 00 00 00 00 01 00 09 IPqu............
        00 00 00 00 00 00 00 06 05 04 03 02 01 00 00 02 ................
        00 07 00 00 00 02 00 00 00 2d 01 00 00 00 00 00 .........-......
        00 fe ff ff ff 01 00 00 00 05 00 00 00 00 00 00 ................
        00                                              .
    "#]],
    );
}

#[test]
fn ejections() {
    let mut ejections = Ejections::new(OutlierDetection::default(), vec![0xaaaa, 0xbbbb]);
    assert!(ejections.eject(0xaaaa, Timestamp(1000), &mut SplitMix64::new(1)));
    assert_eq!(inference_plugin::ejection::key("p"), "ip1/health/p");
    check(
        &ejections.poll_publication().unwrap().0,
        expect![[r#"
        49 50 68 6c 01 01 00 00 00 00 00 00 00 01 00 aa IPhl............
        aa 00 00 00 00 00 00 e8 03 00 00 00 00 00 00 06 ................
        18 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 ................
        00                                              .
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
        11567c7cee8edc66
        ecdc1209d491d8a0
        0edbfa4fadcf24aa
        f755adfddbb71978
        96c91d771572fd82"#]]
    .assert_eq(&text.join("\n"));
}

/// Gateway replicas agree on a prompt's home, and workers on its blocks, only while this stays as it is.
#[test]
fn prompt_blocks() {
    let body =
        format!(r#"{{"cache_salt":"s","messages":[{{"role":"user","content":"{}"}}],"tools":[1]}}"#, "x".repeat(600));
    let shape = Shape::of(b"POST", b"/v1/chat/completions").unwrap();
    let found = scan::scan(body.as_bytes(), shape, None, Wanted::Named(&[])).unwrap();
    let prompt = Prompt::new("m", body.as_bytes(), &found.prompt);
    let blocks: Vec<String> =
        prompt.blocks.iter().map(|block| format!("{:016x} {}", block.hash, block.tokens)).collect();
    let text = format!("{}\nopening {:016x}\ntokens {}", blocks.join("\n"), prompt.opening, prompt.tokens);
    expect![[r#"
        2f3e3bbb75c16663 64
        0bcd6790d3ed72f6 128
        opening e27926c32ebec072
        tokens 159"#]]
    .assert_eq(&text);
}

//! Names, splits, rewrites and objectives of two small pools.

use super::*;
use crate::rng::SplitMix64;
use crate::testing::test;

fn table(more: &str) -> ModelTable {
    let json = format!(
        r#"{{"pools": [
            {{"name": "a", "baseModel": "base-a", "adapters": ["x", "y"], "endpoints": {{"static": ["10.0.0.1:1"]}}}},
            {{"name": "b", "baseModel": "base-b", "endpoints": {{"static": ["10.0.0.2:1"]}}}}], {more}}}"#
    );
    ModelTable::new(&crate::config::parse(json.as_bytes()).unwrap())
}

const MODELS: &str = r#""models": [
    {"modelName": "split", "pool": "a", "criticality": "Critical", "restoreModelName": true, "targetModels": [
        {"name": "x", "weight": 90}, {"name": "y", "weight": 10}, {"name": "base-a", "weight": 0}]},
    {"modelName": "x", "pool": "a", "priority": -7},
    {"modelName": "plain", "pool": "b"}]"#;

fn look_up(table: &ModelTable, name: &str) -> Option<(usize, String, Option<i32>)> {
    let found = table.resolve(name, None, &mut SplitMix64::new(1))?;
    Some((found.pool.0, found.target.to_owned(), found.priority))
}

fn found(pool: usize, target: &str, priority: Option<i32>) -> Option<(usize, String, Option<i32>)> {
    Some((pool, target.to_owned(), priority))
}

#[test]
fn base_models_adapters_and_models_lead_to_their_pool() {
    let table = table(MODELS);
    assert_eq!(look_up(&table, "base-a"), found(0, "base-a", None));
    assert_eq!(look_up(&table, "y"), found(0, "y", None));
    assert_eq!(look_up(&table, "x"), found(0, "x", Some(-7)), "an adapter with a priority is still itself");
    assert_eq!(look_up(&table, "plain"), found(1, "base-b", None));
    assert_eq!(look_up(&table, "BASE-A"), None, "model names are case-sensitive, as in the engines");
    assert_eq!(look_up(&table, ""), None);
}

/// How often the first of two targets is drawn.
fn drawn(table: &ModelTable, name: &str, draws: u32, session: impl Fn(u32) -> Option<u64>) -> u32 {
    let mut rng = SplitMix64::new(2);
    let mut to_x = 0;
    for draw in 0..draws {
        match table.resolve(name, session(draw), &mut rng).unwrap().target {
            "x" => to_x += 1,
            "y" => {}
            other => panic!("a target of weight 0 was drawn: {other}"),
        }
    }
    to_x
}

/// 4.5 sigma of a binomial with n = 20,000 and p = 0.9.
const TOLERANCE: u32 = 191;

#[test]
fn a_split_keeps_its_weights() {
    let split = table(MODELS);
    assert!(drawn(&split, "split", 20_000, |_| None).abs_diff(18_000) < TOLERANCE);
    let sticky = table(&MODELS.replace(r#""restoreModelName""#, r#""sticky": true, "restoreModelName""#));
    let session = |draw| Some(hash::mix(u64::from(draw)));
    assert!(drawn(&sticky, "split", 20_000, session).abs_diff(18_000) < TOLERANCE);
    assert!(drawn(&sticky, "split", 20_000, |_| None).abs_diff(18_000) < TOLERANCE, "no session, no rule");
}

#[test]
fn a_session_stays_until_the_weights_make_it_move() {
    let with = |x: u32, y: u32| {
        table(&format!(
            r#""models": [{{"modelName": "m", "pool": "a", "sticky": true,
                "targetModels": [{{"name": "x", "weight": {x}}}, {{"name": "y", "weight": {y}}}]}}]"#
        ))
    };
    let (before, after) = (with(90, 10), with(80, 20));
    let mut rng = SplitMix64::new(3);
    let mut to_y = 0;
    for session in 0..1_000 {
        let mut draw = |table: &ModelTable| {
            let session = Some(hash::mix(session));
            table.resolve("m", session, &mut rng).unwrap().target.to_owned()
        };
        let (then, now) = (draw(&before), draw(&after));
        assert_eq!(draw(&before), then);
        assert!(then == now || now == "y", "nobody goes to the target that shrinks");
        to_y += u32::from(then != now);
    }
    assert!((50..200).contains(&to_y), "about a tenth moves: {to_y}");
}

#[test]
fn exact_rewrites_go_before_generic_ones_and_these_before_targets() {
    let table = table(&format!(
        r#"{MODELS}, "modelRewrites": [
            {{"pool": "a", "rules": [
                {{"targets": [{{"modelRewrite": "y"}}]}},
                {{"matches": [{{"model": {{"value": "gpt"}}}}, {{"model": {{"type": "Exact", "value": "x"}}}}],
                  "targets": [{{"modelRewrite": "base-a"}}]}}]}},
            {{"pool": "a", "rules": [
                {{"targets": [{{"modelRewrite": "x"}}]}},
                {{"matches": [{{"model": {{"value": "gpt"}}}}], "targets": [{{"modelRewrite": "x"}}]}}]}}]"#
    ));
    assert_eq!(look_up(&table, "gpt"), found(0, "base-a", None), "the first of two exact ones");
    assert_eq!(look_up(&table, "x"), found(0, "base-a", Some(-7)), "the model's priority stays");
    assert_eq!(look_up(&table, "split"), found(0, "y", Some(1)), "the first of two generic ones");
    assert_eq!(look_up(&table, "base-a"), found(0, "y", None));
    assert_eq!(look_up(&table, "plain"), found(1, "base-b", None), "another pool's");
    assert_eq!(look_up(&table, "unknown"), None, "a generic rewrite makes no name known");
}

#[test]
fn a_rewrites_weights_are_uniform_or_given() {
    let with = |targets: &str| {
        table(&format!(
            r#""modelRewrites": [{{"pool": "a", "rules": [{{"matches": [{{"model": {{"value": "m"}}}}], "targets": {targets}}}]}}]"#
        ))
    };
    let even = with(r#"[{"modelRewrite": "x"}, {"modelRewrite": "y"}]"#);
    // 4.5 sigma of a binomial with n = 20,000 and p = 0.5.
    assert!(drawn(&even, "m", 20_000, |_| None).abs_diff(10_000) < 319);
    let mixed =
        with(r#"[{"modelRewrite": "x", "weight": 3}, {"modelRewrite": "base-a"}, {"modelRewrite": "y", "weight": 1}]"#);
    // And with p = 0.75.
    assert!(drawn(&mixed, "m", 20_000, |_| None).abs_diff(15_000) < 276, "one without a weight is never chosen");
}

#[test]
fn objectives_are_their_pools() {
    let table =
        table(r#""objectives": [{"name": "batch", "pool": "a", "priority": -5}, {"name": "batch", "pool": "b"}]"#);
    assert_eq!(table.objective(PoolId(0), "batch"), Some(-5));
    assert_eq!(table.objective(PoolId(1), "batch"), Some(0));
    assert_eq!(table.objective(PoolId(0), "other"), None);
}

//! One `#[test]` for both worlds: the native harness, and wasm-bindgen-test on wasm32-unknown-unknown.
//!
//! A test module says `use crate::testing::test;` and is run by either.

#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub(crate) use core::prelude::v1::test;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(crate) use wasm_bindgen_test::wasm_bindgen_test as test;

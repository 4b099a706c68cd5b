//! What is shown of others' text is one word or one line, whatever the text.

use inference_plugin::shown::{is_hidden, is_plain, line, token};
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_text_becomes_one_word(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "\\PC{0,60}|.{0,60}|[\u{2000}-\u{206f}\u{0}-\u{20}\u{7f}-\u{a0}]{0,60}",
    ) {
        for shown in [token(&bytes), token(&text)] {
            prop_assert!(!shown.chars().any(|char| is_hidden(char) || char.is_whitespace() || "\"'`;=|,\\".contains(char)));
            prop_assert!(shown.len() <= 131);
        }
        for shown in [line(&bytes), line(&text)] {
            prop_assert!(!shown.chars().any(|char| is_hidden(char) || (char.is_whitespace() && char != ' ')));
            prop_assert!(shown.len() <= 515);
        }
        prop_assert!(!is_plain(&text) || token(&text) == text);
        prop_assert!(is_plain(&text) || token(&text) != text);
    }
}

//! Finds the boundaries of a form, in time that doesn't depend on what the form is filled with.
//!
//! Searches for any text skip ahead where bytes are rare, and crawl where a body is made of the boundary's own. This one looks at its
//! first three bytes and its last one, for eight places at a time, whatever the bytes are.

use super::super::cursor::each;

/// Where the delimiter, which has three bytes at least, stands in a body; places within one that was found are left out.
pub(super) fn find<'b>(body: &'b [u8], delimiter: &'b [u8]) -> impl Iterator<Item = usize> + 'b {
    let mut at = 0;
    std::iter::from_fn(move || {
        let found = next(body, at, delimiter)?;
        at = found + delimiter.len();
        Some(found)
    })
}

fn next(body: &[u8], mut at: usize, delimiter: &[u8]) -> Option<usize> {
    let [first, second, third, ..] = delimiter else { return None };
    let last = delimiter.last()?;
    let offset = delimiter.len() - 1;
    let word = |at: usize| body.get(at..)?.first_chunk::<8>().map(|word| u64::from_le_bytes(*word));
    let is_there = |at: usize| body.get(at..).is_some_and(|rest| rest.starts_with(delimiter));
    while let (Some(start), Some(end)) = (word(at), word(at + offset)) {
        let mut places = each(start, *first) & each(end, *last);
        if places != 0
            && let (Some(middle), Some(third_word)) = (word(at + 1), word(at + 2))
        {
            places &= each(middle, *second) & each(third_word, *third);
        }
        while places != 0 {
            let place = at + places.trailing_zeros() as usize / 8;
            if is_there(place) {
                return Some(place);
            }
            places &= places - 1;
        }
        at += 8;
    }
    (at..body.len()).find(|at| is_there(*at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn it_finds_what_a_search_for_any_text_finds() {
        for delimiter in [&b"--b"[..], b"--bb", b"---", b"--a-", b"--aaaaaaaaab"] {
            let mut state = 1u64;
            for length in 0..200 {
                let mut body: Vec<u8> = (0..length)
                    .map(|_| {
                        state = crate::hash::mix(state + 1);
                        b"-ab-"[(state % 4) as usize]
                    })
                    .collect();
                body.extend_from_slice(delimiter);
                body.extend_from_slice(&b"--ab-"[..length % 5]);
                let found: Vec<usize> = find(&body, delimiter).collect();
                assert_eq!(found, memchr::memmem::find_iter(&body, delimiter).collect::<Vec<_>>(), "{body:?}");
            }
        }
    }
}

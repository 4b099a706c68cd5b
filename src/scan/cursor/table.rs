//! The grammar between strings as a table: for each state and each kind of byte what comes next.
//!
//! A state says what may stand here, and in what. The elements of the outermost array are counted for a while, so that there is a
//! state of each kind for that.

/// What may stand at a place.
pub(super) type State = u8;

/// A value that opens a container; where every walk begins.
pub(super) const VALUE: State = 0;
/// In an array: its first value or its end, a value, the middle of a number, or what follows a value.
const ARRAY: [State; 4] = [1, 2, 3, 4];
/// The same in the outermost array while its elements are counted.
const COUNTED: [State; 4] = [5, 6, 7, 8];
/// In an object: its first key or its end, a value, the middle of a number, what follows a value, a key, and a colon.
const OBJECT: [State; 6] = [9, 10, 11, 12, 13, 14];

/// What a byte leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Past the byte, to this state.
    Go(State),
    /// Into a number of a list, past its first byte; what follows a number has this state and the next one.
    Number(State),
    /// Past the white space that begins here.
    Space,
    /// Past the string that begins here.
    String(State),
    /// Past the word that begins here.
    Word(State),
    /// Into a container.
    Open,
    /// Out of one.
    Close,
    /// Past the comma behind an element that is counted.
    Element,
    /// It cannot stand here.
    No,
}

/// What a byte leads to.
#[inline(always)]
pub(super) fn step(state: State, byte: u8) -> Step {
    let kind = KINDS.get(usize::from(byte)).copied().unwrap_or(0);
    // Sixteen states of sixteen kinds: the index of a byte needs no check.
    let entry = STEPS.get(usize::from(state << 4 | kind)).copied().unwrap_or(NO);
    if entry <= 15 {
        return Step::Go(entry);
    }
    let next = entry & 15;
    match entry & !15 {
        STRING => Step::String(next),
        WORD => Step::Word(next),
        OPEN => Step::Open,
        CLOSE => Step::Close,
        ELEMENT => Step::Element,
        IN_NUMBER => Step::Number(next),
        IN_SPACE => Step::Space,
        _ => Step::No,
    }
}

/// Where a container begins that was just opened.
pub(super) fn first(is_object: bool, is_outermost: bool) -> State {
    let [array, ..] = ARRAY;
    let [counted, ..] = COUNTED;
    let [object, ..] = OBJECT;
    match (is_object, is_outermost) {
        (true, _) => object,
        (false, true) => counted,
        (false, false) => array,
    }
}

/// Where a container goes on in which another one has ended.
pub(super) fn after(in_object: bool, is_counted: bool) -> State {
    let [.., array] = ARRAY;
    let [.., counted] = COUNTED;
    let [_, _, _, object, ..] = OBJECT;
    match (in_object, is_counted) {
        (true, _) => object,
        (false, true) => counted,
        (false, false) => array,
    }
}

/// Where an array goes on behind a comma.
pub(super) fn next(are_all_counted: bool) -> State {
    let [_, array, ..] = ARRAY;
    let [_, counted, ..] = COUNTED;
    if are_all_counted { array } else { counted }
}

/// Where a list of numbers goes on behind these bytes of it, of which the first number's beginning is not one; `inside` is the state
/// in the middle of a number.
pub(super) fn in_numbers(passed: &[u8], inside: State) -> State {
    let [_, value, _, after] = ARRAY;
    match (passed.iter().rfind(|byte| **byte != b' '), passed.last()) {
        (Some(b','), _) => value,
        (_, Some(b' ')) => after,
        _ => inside,
    }
}

/// Whether a state in the middle of a number is that of a list whose elements nobody counts.
pub(super) fn is_in_list(inside: State) -> bool {
    let [_, _, number, _] = ARRAY;
    inside == number
}

const SPACE: u8 = 1;
const QUOTE: u8 = 2;
const BRACE: u8 = 3;
const BRACE_END: u8 = 4;
const BRACKET: u8 = 5;
const BRACKET_END: u8 = 6;
const COMMA: u8 = 7;
const COLON: u8 = 8;
const DIGIT: u8 = 9;
const NUMBER: u8 = 10;
const LETTER: u8 = 11;
const INFINITY: u8 = 12;

const GO: u8 = 0 << 4;
const STRING: u8 = 1 << 4;
const WORD: u8 = 2 << 4;
const OPEN: u8 = 3 << 4;
const CLOSE: u8 = 4 << 4;
const ELEMENT: u8 = 5 << 4;
const NO: u8 = 6 << 4;
const IN_NUMBER: u8 = 7 << 4;
const IN_SPACE: u8 = 8 << 4;

/// The kind of each byte; 0 is none that stands between strings.
const KINDS: [u8; 256] = kinds();
const STEPS: [u8; 256] = steps();

#[expect(clippy::indexing_slicing, reason = "computed by the compiler, which checks it")]
const fn kinds() -> [u8; 256] {
    let mut kinds = [0; 256];
    let known = [
        (b" \n\r\t" as &[u8], SPACE),
        (b"\"", QUOTE),
        (b"{", BRACE),
        (b"}", BRACE_END),
        (b"[", BRACKET),
        (b"]", BRACKET_END),
        (b",", COMMA),
        (b":", COLON),
        (b"-0123456789", DIGIT),
        (b"+.eE", NUMBER),
        (b"tfnN", LETTER),
        (b"I", INFINITY),
    ];
    let mut index = 0;
    while index < known.len() {
        let (bytes, kind) = known[index];
        let mut at = 0;
        while at < bytes.len() {
            kinds[bytes[at] as usize] = kind;
            at += 1;
        }
        index += 1;
    }
    kinds
}

#[expect(clippy::indexing_slicing, reason = "computed by the compiler, which checks it")]
const fn steps() -> [u8; 256] {
    let mut steps = [NO; 256];
    put(&mut steps, VALUE, BRACE, OPEN);
    put(&mut steps, VALUE, BRACKET, OPEN);
    put(&mut steps, VALUE, SPACE, GO | VALUE);
    let [first, value, number, after, key, colon] = OBJECT;
    values(&mut steps, value, [number, after]);
    put(&mut steps, after, COMMA, GO | key);
    put(&mut steps, number, COMMA, GO | key);
    put(&mut steps, after, BRACE_END, CLOSE);
    put(&mut steps, number, BRACE_END, CLOSE);
    put(&mut steps, first, BRACE_END, CLOSE);
    let (places, mut index) = ([first, key, colon], 0);
    while index < places.len() {
        put(&mut steps, places[index], SPACE, IN_SPACE | places[index]);
        index += 1;
    }
    put(&mut steps, first, QUOTE, STRING | colon);
    put(&mut steps, key, QUOTE, STRING | colon);
    put(&mut steps, colon, COLON, GO | value);
    let (arrays, mut index) = ([(ARRAY, GO | ARRAY[1]), (COUNTED, ELEMENT)], 0);
    while index < arrays.len() {
        let ([first, value, number, after], comma) = arrays[index];
        values(&mut steps, first, [number, after]);
        values(&mut steps, value, [number, after]);
        put(&mut steps, after, COMMA, comma);
        put(&mut steps, number, COMMA, comma);
        put(&mut steps, after, BRACKET_END, CLOSE);
        put(&mut steps, number, BRACKET_END, CLOSE);
        put(&mut steps, first, BRACKET_END, CLOSE);
        index += 1;
    }
    steps
}

/// What a value does where one may stand; a number and what follows a value have states of their own.
const fn values(steps: &mut [u8; 256], here: State, [number, after]: [State; 2]) {
    put(steps, here, SPACE, IN_SPACE | here);
    put(steps, here, QUOTE, STRING | after);
    put(steps, here, BRACE, OPEN);
    put(steps, here, BRACKET, OPEN);
    put(steps, here, DIGIT, IN_NUMBER | number);
    put(steps, here, LETTER, WORD | after);
    put(steps, here, INFINITY, WORD | after);
    put(steps, number, DIGIT, GO | number);
    put(steps, number, NUMBER, GO | number);
    // -Infinity
    put(steps, number, INFINITY, WORD | after);
    put(steps, number, SPACE, GO | after);
    put(steps, after, SPACE, IN_SPACE | after);
}

#[expect(clippy::indexing_slicing, reason = "computed by the compiler, which checks it")]
const fn put(steps: &mut [u8; 256], state: State, kind: u8, entry: u8) {
    steps[(state << 4 | kind) as usize] = entry;
}

//! The decoder of requests, on its own: what Redis takes, what it refuses, and bytes from anywhere.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::resp::{Decoder, Found, Limits, MAX_SKIPPED_BYTES, Malformed, number};

const LIMITS: Limits = Limits { args: 8, bulk_bytes: 64, request_bytes: 256, line_bytes: 128 };

type Words = Vec<Vec<u8>>;

/// Decodes what arrives in these pieces, as a connection does; ends with the first error.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Words>, Option<Malformed>) {
    let (mut decoder, mut buffer, mut found) = (Decoder::new(LIMITS), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let bytes = match decoder.next(&buffer) {
                Ok(Some((Found::Request(request), bytes))) => {
                    let words: Words = request.args().map(<[u8]>::to_vec).collect();
                    assert_eq!(words.len(), request.len(), "it has as many as it says");
                    found.push(words);
                    bytes
                }
                Ok(Some((Found::Skipped, bytes))) => {
                    assert!(decoder.is_skipping());
                    bytes
                }
                Ok(Some((Found::TooLong(exceeded), bytes))) => {
                    assert!(!decoder.is_skipping());
                    found.push(too_long(&exceeded.to_string()));
                    bytes
                }
                Ok(None) => break,
                Err(malformed) => return (found, Some(malformed)),
            };
            assert!(0 < bytes && bytes <= buffer.len(), "{bytes} of {} bytes", buffer.len());
            buffer.drain(..bytes);
        }
        let most = LIMITS.request_bytes.max(LIMITS.line_bytes) + piece.len() + 32;
        assert!(buffer.len() <= most, "{} bytes wait for the rest of a request", buffer.len());
    }
    (found, None)
}

/// What stands for a request that is too long.
fn too_long(why: &str) -> Words {
    words(&["too long", why])
}

/// Decodes what arrives at once and is whole.
fn whole(bytes: &[u8]) -> Vec<Words> {
    let (found, malformed) = decode([bytes]);
    assert_eq!(malformed, None);
    found
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn encode(request: &Words) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for word in request {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[test]
fn an_array_of_byte_strings_is_a_request() {
    let bytes = b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\n\r\n\0$\r\n*1\r\n$4\r\nPING\r\n";
    assert_eq!(whole(bytes), [words(&["SET", "", "\r\n\0$"]), words(&["PING"])]);
}

#[test]
fn a_line_is_split_into_words_and_unquoted() {
    assert_eq!(whole(b"set a b\r\n"), [words(&["set", "a", "b"])]);
    assert_eq!(whole(b"  get\ta \n"), [words(&["get", "a"])]);
    let quoted = br#"set "a b\n\x41\"\q" 'c\'\d' "" e"f""#;
    let expected = words(&["set", "a b\nA\"q", "c'\\d", "", "ef"]);
    assert_eq!(whole(&[&quoted[..], b"\r\n"].concat()), [expected]);
}

#[test]
fn a_request_without_arguments_means_nothing() {
    let nothing = Words::new;
    assert_eq!(whole(b"\r\n*0\r\n*-1\r\n \n"), [nothing(), nothing(), nothing(), nothing()]);
}

#[test]
fn what_is_no_request_is_refused_in_the_words_of_redis() {
    let long = |text: &str| text.repeat(40);
    let cases = [
        ("*9\r\n".to_owned(), "invalid multibulk length"),
        ("*x\r\n".to_owned(), "invalid multibulk length"),
        ("*99999999999999999999\r\n".to_owned(), "invalid multibulk length"),
        (long("*1"), "too big mbulk count string"),
        ("*1\r\n:1\r\n".to_owned(), "expected '$', got ':'"),
        ("*1\r\n\r\n".to_owned(), "expected '$', got '?'"),
        ("*1\r\n$-1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$+1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$01\r\n".to_owned(), "invalid bulk length"),
        (format!("*1\r\n${}\r\n", MAX_SKIPPED_BYTES + 1), "invalid bulk length"),
        ("*1\r\n$4294967296\r\n".to_owned(), "invalid bulk length"),
        (format!("*1\r\n${}", long("1")), "too big bulk count string"),
        ("*1\r\n$1\r\nab\r\n".to_owned(), "an argument is longer than it says"),
        (format!("*8\r\n{}", long("$64\r\n").replace("\r\n", "")), "too big bulk count string"),
        (long("abcd"), "too big inline request"),
        (long("abcd") + "\n", "too big inline request"),
        ("get \"a\n".to_owned(), "unbalanced quotes in request"),
        ("get 'a'b\n".to_owned(), "unbalanced quotes in request"),
    ];
    for (bytes, expected) in cases {
        let (found, malformed) = decode([bytes.as_bytes()]);
        assert!(found.is_empty(), "{bytes:?}: {found:?}");
        let malformed = malformed.unwrap_or_else(|| panic!("{bytes:?} was taken"));
        assert_eq!(malformed.to_string(), format!("Protocol error: {expected}"), "{bytes:?}");
    }
}

#[test]
fn a_request_that_is_too_long_is_skipped_and_the_next_is_understood() {
    let ping = encode(&words(&["PING"]));
    let long_argument = encode(&vec![b"SET".to_vec(), vec![b'k'; 10], vec![b'v'; 70_000]]);
    let many_arguments = encode(&vec![vec![b'a'; 60]; 8]);
    let both = encode(&vec![vec![b'a'; 65], Vec::new(), vec![b'a'; 65], b"x".to_vec()]);
    let stream = [&ping, &long_argument, &many_arguments, &both, &ping].map(|part| &part[..]);
    let expected = [
        words(&["PING"]),
        too_long("an argument exceeds 64 bytes"),
        too_long("the request exceeds 256 bytes"),
        too_long("an argument exceeds 64 bytes"),
        words(&["PING"]),
    ];
    let stream = stream.concat();
    for piece in [1, 7, 1000, stream.len()] {
        let (found, malformed) = decode(stream.chunks(piece));
        assert_eq!((found.as_slice(), malformed), (&expected[..], None), "{piece} at a time");
    }
}

#[test]
fn a_request_that_is_skipped_must_be_one_all_the_same() {
    let cases = [
        (format!("*1\r\n$100\r\n{}", "x".repeat(103)), "an argument is longer than it says"),
        (format!("*2\r\n$100\r\n{}\r\n:1\r\n", "x".repeat(100)), "expected '$', got ':'"),
    ];
    for (bytes, expected) in cases {
        for piece in [1, bytes.len()] {
            let (found, malformed) = decode(bytes.as_bytes().chunks(piece));
            let malformed = malformed.expect("it is none").to_string();
            assert_eq!((found.len(), malformed), (0, format!("Protocol error: {expected}")));
        }
    }
}

#[test]
fn what_came_before_the_garbage_is_a_request() {
    let (found, malformed) = decode([&b"*1\r\n$4\r\nPING\r\n*1\r\n!"[..], &[b'x'; 40]]);
    assert_eq!(found, [words(&["PING"])]);
    assert!(malformed.is_some());
}

#[test]
fn a_number_is_what_redis_writes_as_one() {
    let taken = ["0", "1", "-1", "10", "9223372036854775807", "-9223372036854775808"];
    for text in taken {
        assert_eq!(number(text.as_bytes()).map(|number| number.to_string()).as_deref(), Some(text));
    }
    let refused =
        ["", "-", "-0", "+1", "01", " 1", "1 ", "1.0", "1e3", "a", "9223372036854775808", "--1"];
    for text in refused {
        assert_eq!(number(text.as_bytes()), None, "{text:?}");
    }
}

/// Bytes that look like requests now and then.
fn nearly_requests() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"*".to_vec()),
        Just(b"$".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
        Just([&b"*2\r\n$3\r\nGET\r\n$70\r\n"[..], &[b'a'; 70], b"\r\n"].concat()),
        (-2_i64..70).prop_map(|number| number.to_string().into_bytes()),
        vec(any::<u8>(), 0..8),
    ];
    vec(part, 0..40).prop_map(|parts| parts.concat())
}

/// Cuts bytes into pieces of these lengths, again and again.
fn cut<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(bytes.len().min(*length));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

proptest! {
    #[test]
    fn requests_are_the_same_however_they_are_cut(
        requests in vec(vec(vec(any::<u8>(), 0..12), 1..8), 0..6),
        lengths in vec(1_usize..20, 1..8),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(encode).collect();
        let (found, malformed) = decode(cut(&bytes, &lengths));
        prop_assert_eq!(malformed, None);
        prop_assert_eq!(found, requests);
    }

    #[test]
    fn any_bytes_come_to_the_same_however_they_are_cut(
        bytes in nearly_requests(),
        lengths in vec(1_usize..20, 1..8),
    ) {
        prop_assert_eq!(decode(cut(&bytes, &lengths)), decode(bytes.chunks(1)));
    }
}

//! The only caller of bincode: values in, bytes out, and back, within limits.
//!
//! Left to itself a decoder believes the lengths it reads: nine bytes can ask for a terabyte. So every
//! decoding has a limit, and bytes left over are an error. A sequence of zero-sized elements escapes any
//! limit; none of our own types holds one, and commands must not either.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bincode::error::{DecodeError as BincodeDecode, EncodeError as BincodeEncode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{DecodeError, EncodeError};

/// The largest message that is not entries, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The largest command, in bytes; [`Config::max_entry_bytes`](crate::Config::max_entry_bytes) lies below.
pub const MAX_COMMAND_BYTES: usize = 1 << 30;

type Limited<const N: usize> = Configuration<LittleEndian, Fixint, Limit<N>>;

const fn limited<const N: usize>() -> Limited<N> {
    config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<N>()
}

fn encode<T: Serialize, const N: usize>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    bincode::serde::encode_into_std_write(value, out, limited::<N>())
        .map_err(|error: BincodeEncode| EncodeError::new(error))?;
    // bincode keeps to a limit only when it decodes; what nobody could read must not be written.
    if out.len() - start > N {
        out.truncate(start);
        return Err(EncodeError::new(format!("more than {N} bytes")));
    }
    Ok(())
}

fn decode<T: DeserializeOwned, const N: usize>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, consumed) = bincode::serde::decode_from_slice(bytes, limited::<N>())
        .map_err(|error: BincodeDecode| DecodeError::new(error))?;
    if consumed == bytes.len() {
        Ok(value)
    } else {
        Err(DecodeError::new(format!("{} bytes left over", bytes.len() - consumed)))
    }
}

/// Appends a message's bytes to `out`.
pub(crate) fn encode_message<T: Serialize>(
    message: &T,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    encode::<T, MAX_MESSAGE_BYTES>(message, out)
}

/// Reads a message that takes all of `bytes`.
pub(crate) fn decode_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode::<T, MAX_MESSAGE_BYTES>(bytes)
}

/// Appends a command's bytes to `out`.
pub(crate) fn encode_command<T: Serialize>(
    command: &T,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    encode::<T, MAX_COMMAND_BYTES>(command, out)
}

/// Reads a command that takes all of `bytes`.
pub(crate) fn decode_command<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode::<T, MAX_COMMAND_BYTES>(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_limit_is_an_error_not_an_allocation() {
        let bytes = (1_u64 << 40).to_le_bytes();
        assert!(decode_message::<Vec<u8>>(&bytes).is_err());
        assert!(decode_command::<String>(&bytes).is_err());
    }

    #[test]
    fn what_could_not_be_read_is_not_written() {
        let mut bytes = vec![7];
        assert!(encode_message(&vec![0_u8; MAX_MESSAGE_BYTES], &mut bytes).is_err());
        assert_eq!(bytes, [7]);
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let mut bytes = Vec::new();
        encode_command(&7_u32, &mut bytes).expect("a number");
        assert_eq!(decode_command::<u32>(&bytes).expect("a number"), 7);
        bytes.push(0);
        assert!(decode_command::<u32>(&bytes).is_err());
    }
}

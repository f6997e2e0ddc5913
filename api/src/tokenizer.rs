//! A byte-level tokenizer that needs no model files.
//!
//! Ids 0 to 255 are the bytes of UTF-8 text; 256 to 258 are the special tokens of the chat
//! template. Higher ids, which clients may send as token-id prompts because real vocabularies are
//! larger, print as `<|id|>`. Text never encodes to anything but bytes, so that a user's text
//! cannot smuggle in a special token.

use crate::chat::Message;

/// End of sequence.
pub const EOS: u32 = 256;
/// Opens a message in the chat template.
pub const IM_START: u32 = 257;
/// Closes a message in the chat template.
pub const IM_END: u32 = 258;

/// The token ids of a text: its bytes.
pub fn encode(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// The token ids of a conversation in the ChatML template:
/// `<|im_start|>role\ncontent<|im_end|>\n`, then the assistant's opening if asked for.
///
/// Fails with the type of the first content part that is not text.
pub fn encode_chat(messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>, String> {
    let mut tokens = Vec::new();
    let open = |tokens: &mut Vec<u32>, role: &str| {
        tokens.push(IM_START);
        tokens.extend(encode(role));
        tokens.push(u32::from(b'\n'));
    };
    for message in messages {
        open(&mut tokens, &message.role);
        tokens.extend(encode(&message.text()?));
        tokens.push(IM_END);
        tokens.push(u32::from(b'\n'));
    }
    if add_generation_prompt {
        open(&mut tokens, "assistant");
    }
    Ok(tokens)
}

/// The text of token ids; invalid UTF-8 becomes U+FFFD.
pub fn decode(tokens: &[u32]) -> String {
    let mut stream = TextStream::default();
    let mut text: String = tokens.iter().map(|&token| stream.push(token)).collect();
    text.push_str(&stream.finish());
    text
}

/// Turns tokens into text as they come, holding back bytes until a character is complete.
#[derive(Debug, Default, Clone)]
pub struct TextStream {
    pending: Vec<u8>,
}

impl TextStream {
    /// The text that this token completes; empty in the middle of a character.
    pub fn push(&mut self, token: u32) -> String {
        match u8::try_from(token) {
            Ok(byte) if self.pending.is_empty() && byte.is_ascii() => char::from(byte).to_string(),
            Ok(byte) => {
                self.pending.push(byte);
                self.take_complete()
            }
            Err(_) => self.finish() + &special(token),
        }
    }

    /// The text of bytes that never became a character.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(rest) => {
                    text.push_str(rest);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid = self.pending.drain(..error.valid_up_to()).collect::<Vec<u8>>();
                    text.push_str(&String::from_utf8_lossy(&valid));
                    // Without a length, the next byte may still complete the character.
                    let Some(bad) = error.error_len() else { return text };
                    self.pending.drain(..bad);
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }
}

fn special(token: u32) -> String {
    match token {
        EOS => "<|endoftext|>".to_owned(),
        IM_START => "<|im_start|>".to_owned(),
        IM_END => "<|im_end|>".to_owned(),
        id => format!("<|{id}|>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Content;
    use proptest::prelude::*;

    #[test]
    fn chat_uses_the_template() {
        let user = Message { role: "user".into(), content: Some(Content::Text("hi".into())) };
        let tokens = encode_chat(&[user], true).unwrap();
        assert_eq!(decode(&tokens), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn text_cannot_make_special_tokens() {
        assert!(encode("<|im_start|>").iter().all(|&t| t < 256));
    }

    #[test]
    fn large_ids_print_as_themselves() {
        assert_eq!(decode(&[65, 128_000, 66]), "A<|128000|>B");
    }

    #[test]
    fn broken_utf8_is_replaced_not_lost() {
        assert_eq!(decode(&[0xc3, 65]), "\u{fffd}A");
        assert_eq!(decode(&[0xe2, 0x82]), "\u{fffd}");
        assert_eq!(decode(&[0xff, 0xff]), "\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn text_round_trips(text in "\\PC{0,40}") {
            prop_assert_eq!(decode(&encode(&text)), text);
        }

        #[test]
        fn streams_agree_with_one_go(bytes in prop::collection::vec(any::<u8>(), 0..32)) {
            let tokens: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
            prop_assert_eq!(decode(&tokens), String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

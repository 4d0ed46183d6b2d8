//! Text to ids and back: `tokenizer.json` through the `tokenizers` crate, training a BPE, decoding a stream.

use crate::error::{Error, Result};
use std::path::Path;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerImpl};

pub const BOS: &str = "<|bos|>";
pub const EOS: &str = "<|eos|>";
pub const PAD: &str = "<|pad|>";

fn words(e: tokenizers::Error) -> Error {
    Error::Tokenizer(e.to_string())
}

/// A trained tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model directory.
    ///
    /// # Errors
    /// Missing or malformed file, with the path.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| Error::format(&path, e.to_string()))?;
        // lengths are the caller's business: a file that carries them would cut or fill behind our back
        inner.with_padding(None);
        inner.with_truncation(None).map_err(words)?;
        Ok(Self { inner })
    }

    /// Trains a byte-level BPE: every text can be encoded, digits stand alone (a copied constant is a copied row of
    /// digits), [`BOS`] goes before each text. Ids of [`PAD`], [`BOS`], [`EOS`] are 0, 1, 2.
    ///
    /// # Errors
    /// The crate's words.
    pub fn train<'a>(vocab: usize, texts: impl Iterator<Item = &'a str> + Send) -> Result<Self> {
        let specials: Vec<_> = [PAD, BOS, EOS].map(|t| AddedToken::from(t, true)).to_vec();
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(specials.clone())
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let pre = || {
            Sequence::new(vec![
                PreTokenizerWrapper::Digits(Digits::new(true)),
                PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
            ])
        };
        let mut bpe: TokenizerImpl<
            BPE,
            tokenizers::NormalizerWrapper,
            PreTokenizerWrapper,
            tokenizers::PostProcessorWrapper,
            tokenizers::DecoderWrapper,
        > = TokenizerImpl::new(BPE::default());
        bpe.with_pre_tokenizer(Some(pre()));
        bpe.train(&mut trainer, texts).map_err(words)?;
        let mut inner = tokenizers::Tokenizer::new(bpe.get_model().clone());
        inner.with_pre_tokenizer(Some(pre()));
        inner.with_decoder(Some(ByteLevelDecoder::default()));
        inner.add_special_tokens(specials).map_err(words)?;
        let bos = inner.token_to_id(BOS).ok_or_else(|| Error::Tokenizer("no begin token".into()))?;
        let template = TemplateProcessing::builder()
            .try_single(format!("{BOS} $A"))
            .and_then(|b| b.special_tokens(vec![(BOS.to_owned(), bos)]).build().map_err(|e| e.to_string()))
            .map_err(Error::Tokenizer)?;
        inner.with_post_processor(Some(template));
        Ok(Self { inner })
    }

    /// Writes `tokenizer.json` into `dir`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join("tokenizer.json");
        let text = self.inner.to_string(true).map_err(words)?;
        record::atomic::write(&path, text.as_bytes()).map_err(Error::io(&path))
    }

    /// Ids of a whole text: special tokens are parsed, and the tokenizer's own frame (a begin token, say) is added.
    /// A chat template may have written the begin token already: then it is not doubled.
    ///
    /// # Errors
    /// The crate's words.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.inner.encode_fast(text, true).map_err(words)?.get_ids().to_vec();
        if ids.len() > 1 && ids[0] == ids[1] && self.is_special(ids[0]) {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// Ids of a piece of text: no frame.
    ///
    /// # Errors
    /// The crate's words.
    pub fn encode_piece(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false).map_err(words)?.get_ids().to_vec())
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// The crate's words.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(words)
    }

    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of ids, added tokens included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|t| t.special)
    }
}

/// Decodes token by token. A character may be spread over several tokens and a token's text may depend on the one
/// before: text goes out when it is whole.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    ids: Vec<u32>,
    /// Start of the window that is decoded again, and of what is not out yet.
    prefix: usize,
    read: usize,
}

impl Stream {
    /// Takes one more token; gives the text that became whole.
    ///
    /// # Errors
    /// The crate's words.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        self.advance(tokenizer, false)
    }

    /// What is left, whole or not.
    ///
    /// # Errors
    /// The crate's words.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        self.advance(tokenizer, true)
    }

    fn advance(&mut self, tokenizer: &Tokenizer, last: bool) -> Result<String> {
        let before = tokenizer.decode(&self.ids[self.prefix..self.read])?;
        let after = tokenizer.decode(&self.ids[self.prefix..])?;
        if after.ends_with('\u{fffd}') && !last {
            return Ok(String::new());
        }
        let new = after.get(before.len()..).unwrap_or("").to_owned();
        self.prefix = self.read;
        self.read = self.ids.len();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Tokenizer {
        let texts =
            ["Read n integers. Print how many are greater than 7.", "print(sum(map(int, input().split())))"];
        Tokenizer::train(300, texts.iter().copied().cycle().take(20)).unwrap()
    }

    #[test]
    fn every_text_survives_and_a_stream_gives_the_same_characters() {
        let t = tiny();
        for text in ["print(17)\n", "  def f():\n\treturn 'ä𝄞漢字🙂'\n", "", "é"] {
            let ids = t.encode(text).unwrap();
            assert_eq!(ids[0], t.id(BOS).unwrap());
            assert_eq!(t.decode(&ids).unwrap(), text);
            let mut stream = Stream::default();
            let mut out = String::new();
            for id in ids {
                let piece = stream.push(&t, id).unwrap();
                assert!(!piece.contains('\u{fffd}'));
                out += &piece;
            }
            out += &stream.finish(&t).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn training_is_repeatable_digits_stand_alone_and_the_file_reads_back() {
        let (a, b) = (tiny(), tiny());
        assert_eq!(a.inner.to_string(false).unwrap(), b.inner.to_string(false).unwrap());
        assert_eq!(a.encode_piece("12345").unwrap().len(), 5);
        let dir = tempfile::tempdir().unwrap();
        a.save(dir.path()).unwrap();
        let back = Tokenizer::read(dir.path()).unwrap();
        assert_eq!(back.encode("greater than 12").unwrap(), a.encode("greater than 12").unwrap());
        assert_eq!([PAD, BOS, EOS].map(|t| back.id(t)), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_begin_token_in_the_text_is_not_doubled() {
        let t = tiny();
        assert_eq!(t.encode("<|bos|>print").unwrap(), t.encode("print").unwrap());
    }
}

//! `tokenizer.model` against Python's sentencepiece.

use std::fs;

use mlx_lm::tokenizer::{TextError, Tokenizer};

use super::{corpus, fixtures, golden, ids};

#[test]
fn sentencepiece_files_encode_and_decode_as_sentencepiece_does() {
    for name in ["bpe", "unigram"] {
        let folder = tempfile::tempdir().unwrap();
        let file = fixtures().join(format!("text/sentencepiece-{name}.model"));
        fs::copy(file, folder.path().join("tokenizer.model")).unwrap();
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let golden = golden("sentencepiece-files.json");
        let cases = golden[name].as_array().unwrap();
        let texts = corpus();
        assert_eq!(cases.len(), texts.len());
        for (text, case) in texts.iter().zip(cases) {
            // SentencePiece itself takes the name of a control token for text.
            if ["<s>", "</s>", "<unk>"]
                .iter()
                .any(|name| text.contains(name))
            {
                continue;
            }
            let expected = ids(&case[0]);
            let mut found = tokenizer.encode(text, false).unwrap();
            let mut wanted = expected.clone();
            if name == "unigram" {
                // The same pieces in another order are as likely, and either order is right.
                found.sort_unstable();
                wanted.sort_unstable();
            }
            assert_eq!(found, wanted, "{name}: {text:?}");
            // Its sign for what it does not know is its own.
            if expected.contains(&0) {
                continue;
            }
            let decoded = tokenizer.decode(&expected, false).unwrap();
            assert_eq!(decoded, case[1].as_str().unwrap(), "{name}: {text:?}");
        }
        assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
        assert_eq!(tokenizer.eos_ids(), [2]);
    }
}

#[test]
fn damaged_sentencepiece_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    let whole = fs::read(fixtures().join("text/sentencepiece-bpe.model")).unwrap();
    for length in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..length]).unwrap();
        // Cut between two pieces, it is a smaller vocabulary; everything else is an error.
        match Tokenizer::from_folder(folder.path()) {
            Ok(tokenizer) => drop(tokenizer.encode("Hello", false)),
            Err(error) => assert!(error.to_string().contains("tokenizer.model"), "{error}"),
        }
    }
    fs::write(&path, "\u{8}\u{8}\u{8}").unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, TextError::Format { .. }), "{error}");
}

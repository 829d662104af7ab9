//! What a person or a script gives: tokens, keys and settings, never secrets as arguments.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Read},
    path::Path,
};

use firstmile_shared::{
    exit::{ExitCode, Failure},
    secret::Secret,
    token::JoinToken,
};

use super::note;

/// A file's text, or standard input's when it is called `-`.
pub(super) fn read(file: &Path, what: &str) -> Result<String, Failure> {
    read_up_to(file, what, INPUT_LEN_MAX)
}

/// Likewise, at most so many bytes.
pub(super) fn read_up_to(file: &Path, what: &str, len_max: u64) -> Result<String, Failure> {
    let mut text = String::new();
    let (source, result) = if file == Path::new("-") {
        let input = io::stdin().lock().take(len_max).read_to_string(&mut text);
        ("standard input".to_owned(), input)
    } else {
        let opened = fs::File::open(file);
        let read = opened.and_then(|file| file.take(len_max).read_to_string(&mut text));
        (format!("file {}", file.display()), read)
    };
    match result {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::io(
            format_args!("reading {what} from {source}"),
            &error,
        )),
    }
}

/// The join token from a file, the environment, or a person.
pub(super) fn join_token(file: Option<&Path>) -> Result<Secret, Failure> {
    if let Some(file) = file {
        return read(file, "the join token").map(Secret::new);
    }
    if let Some(token) = std::env::var_os(TOKEN_VARIABLE) {
        return Ok(Secret::new(token.to_string_lossy()));
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::new(
            ExitCode::Usage,
            format!(
                "no join token: give --token-file FILE, --token-file - for standard input, or {TOKEN_VARIABLE}"
            ),
        ));
    }
    note("Paste the join token that `firstmile-relay invite` printed, then press Enter:");
    typed_token(io::stdin().lock())
}

/// Messengers break a token into several lines: read on until it is whole, or an empty line ends it.
fn typed_token(lines: impl BufRead) -> Result<Secret, Failure> {
    let mut text = String::new();
    for line in lines.lines() {
        let line = line.map_err(|error| Failure::io("reading the join token", &error))?;
        text.push_str(&line);
        text.push('\n');
        let is_over = line.trim().is_empty() || JoinToken::parse(&text).is_ok();
        if is_over || text.len() as u64 > INPUT_LEN_MAX {
            break;
        }
    }
    Ok(Secret::new(text))
}

/// `KEY=VALUE` pairs.
pub(super) fn settings(pairs: &[String]) -> Result<Vec<(String, String)>, Failure> {
    (pairs.iter())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
            None => Err(Failure::new(
                ExitCode::Usage,
                format!("{pair:?} is not KEY=VALUE, as in delay=safe"),
            )),
        })
        .collect()
}

const TOKEN_VARIABLE: &str = "FIRSTMILE_JOIN_TOKEN";

/// A token has a few hundred characters, a key at most 128.
const INPUT_LEN_MAX: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use firstmile_shared::tls::Spki;

    use super::*;

    #[test]
    fn a_token_may_be_pasted_in_pieces() {
        let token = JoinToken {
            addresses: vec!["relay.example:4433".into()],
            pins: vec![Spki([7; 32])],
            studio: "truck1".into(),
            id: "t1".into(),
            secret: Secret::new("0123456789abcdef"),
            expires_unix: 1_800_000_000,
            https_port: None,
        };
        let text = token.encode();
        let (head, tail) = text.split_at(40);
        let pasted = format!("\"{head}\n{tail}\"\nwhat was typed later\n");
        let read = typed_token(pasted.as_bytes()).unwrap();
        assert_eq!(JoinToken::parse(read.expose()), Ok(token));
        assert!(!read.expose().contains("later"));
    }

    #[test]
    fn settings_are_pairs() {
        let pairs = settings(&["delay=safe".into(), "slate=/a=b.png".into()]).unwrap();
        assert_eq!(pairs[1], ("slate".into(), "/a=b.png".into()));
        assert!(
            settings(&["delay".into()])
                .unwrap_err()
                .message
                .contains("KEY=VALUE")
        );
    }
}

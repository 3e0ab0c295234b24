//! Ctrl-C and a conversation, through signals and a terminal.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Outcome, prose};

const PATIENCE: Duration = Duration::from_secs(120);

/// The small trained model with a chat template, and no end to its answers.
fn chat_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(prose()).unwrap().flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}assistant:{% endif %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn chat(model: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-lm"));
    command
        .args(["chat", "--temp", "0", "--model"])
        .arg(model)
        .args(arguments)
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .env("TERM", "xterm")
        .env("MLX_CACHE_DIR", model);
    command
}

fn interrupt(child: &Child) -> Outcome {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status()?.success());
    Ok(())
}

#[test]
fn ctrl_c_stops_an_answer_and_not_the_conversation() -> Outcome {
    let folder = chat_model();
    let saved = folder.path().join("talk.json");
    // Without an end of its own, within the positions that are remembered.
    let endless = [
        "-m",
        "100000",
        "--max-kv-size",
        "64",
        "--logit-bias",
        "0=-inf",
    ];
    let mut child = chat(folder.path(), &endless)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    let mut stderr = BufReader::new(child.stderr.take().ok_or("no stderr")?);
    writeln!(stdin, "The captain looked")?;
    let mut begun = [0; 12];
    stdout.read_exact(&mut begun)?;
    interrupt(&child)?;
    let mut line = String::new();
    stderr.read_line(&mut line)?;
    assert_eq!(line, "(stopped)\n");
    // It goes on: what was said until then belongs to the conversation.
    writeln!(
        stdin,
        "/set max_tokens 3\nAnd then?\n/save {}",
        saved.display()
    )?;
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    assert_eq!(child.wait()?.code(), Some(0));
    let talk: Value = serde_json::from_slice(&fs::read(&saved)?)?;
    let messages = talk["messages"].as_array().ok_or("no messages")?;
    assert_eq!(messages.len(), 4, "{talk}");
    let partial = messages[1]["content"].as_str().ok_or("no answer")?;
    let shown = format!("{}{rest}", String::from_utf8_lossy(&begun));
    assert!(!partial.is_empty() && shown.contains(partial), "{shown}");
    Ok(())
}

#[test]
fn only_new_tokens_of_a_conversation_are_processed() -> Outcome {
    let folder = chat_model();
    let mut child = chat(folder.path(), &["-m", "8", "--verbose"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let first = "It was the captain who looked over the sea and said nothing at all to anybody.";
    let typed = format!("{first}\nWhy?\n/undo\nHow?\n");
    child
        .stdin
        .take()
        .ok_or("no stdin")?
        .write_all(typed.as_bytes())?;
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8(output.stderr)?;
    assert!(output.status.success(), "{stderr}");
    // (tokens, cached) of each prompt.
    let counts: Vec<(usize, usize)> = stderr
        .lines()
        .filter_map(|line| line.strip_prefix("Prompt: "))
        .map(|line| {
            let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
            let cached = line.split_once('(').map_or(0, |(_, rest)| number(rest));
            (number(line), cached)
        })
        .collect();
    let [first, second, third] = counts[..] else {
        panic!("{stderr}");
    };
    assert_eq!(first.1, 0);
    // The first message is known. The answer is as far as its text gives the tokens that were
    // written, and is known in any case once a second prompt held it.
    assert!(second.1 >= first.0, "{stderr}");
    assert!(third.1 > second.1, "{stderr}");
    Ok(())
}

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn open(mut command: Command) -> Result<Self, Box<dyn std::error::Error>> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&ours, size)?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = File::options()
            .read(true)
            .write(true)
            .open(name.to_str()?)?;
        let child = command
            .stdin(theirs.try_clone()?)
            .stdout(theirs.try_clone()?)
            .stderr(theirs)
            .spawn()?;
        // Its ends of the terminal close with the child only if the command goes too.
        drop(command);
        let keys = File::from(ours);
        let mut reader = keys.try_clone()?;
        let (send, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut block) {
                if send.send(block[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            keys,
            screen,
            seen: String::new(),
        })
    }

    /// Waits until the screen shows something, and forgets all before it.
    fn expect(&mut self, wanted: &str) -> Outcome {
        loop {
            if let Some(at) = self.seen.find(wanted) {
                self.seen.drain(..at + wanted.len());
                return Ok(());
            }
            match self.screen.recv_timeout(PATIENCE) {
                Ok(block) => self.seen.push_str(&String::from_utf8_lossy(&block)),
                Err(_) => return Err(format!("`{wanted}` is not in {:?}", self.seen).into()),
            }
        }
    }

    fn press(&mut self, keys: &str) -> Outcome {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_conversation_on_a_terminal() -> Outcome {
    let folder = chat_model();
    let saved = folder.path().join("talk.json");
    let mut terminal = Terminal::open(chat(folder.path(), &["-m", "4"]))?;
    terminal.expect("/help lists the commands.")?;
    terminal.expect(">>> ")?;
    terminal.press("The captain\\\r")?;
    terminal.expect("... ")?;
    terminal.press("looked\r")?;
    terminal.expect(">>> ")?;
    // Ctrl-C at the prompt drops the line and stays.
    terminal.press("nonsense\x03")?;
    terminal.expect("Ctrl-D or /quit leaves.")?;
    terminal.expect(">>> ")?;
    // A mistake is told and ends nothing.
    terminal.press("/fly\r")?;
    terminal.expect("error: there is no command /fly")?;
    terminal.expect(">>> ")?;
    terminal.press(&format!("/save {}\r", saved.display()))?;
    terminal.expect(">>> ")?;
    terminal.press("/stats\r")?;
    terminal.expect("Generation: 4 tokens")?;
    terminal.expect(">>> ")?;
    // The arrow brings back what was typed last.
    terminal.press("\x1b[A")?;
    terminal.expect("/stats")?;
    terminal.press("\x03")?;
    terminal.expect("Ctrl-D or /quit leaves.")?;
    terminal.expect(">>> ")?;
    terminal.press("\x04")?;
    assert_eq!(terminal.child.wait()?.code(), Some(0));
    let talk: Value = serde_json::from_slice(&fs::read(&saved)?)?;
    assert_eq!(talk["messages"][0]["content"], "The captain\nlooked");
    assert!(folder.path().join("chat-history.txt").is_file());
    Ok(())
}

#[test]
fn an_answer_that_cannot_be_replaced_stays() -> Outcome {
    let folder = chat_model();
    let template = "{% if messages[-1].content == 'Why?' %}{{ raise_exception('not that') }}{% endif %}\
        {% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    fs::write(folder.path().join("chat_template.jinja"), template)?;
    let talk = serde_json::json!([
        { "role": "user", "content": "Why?" },
        { "role": "assistant", "content": "Because." },
    ]);
    let (first, second) = (folder.path().join("a.json"), folder.path().join("b.json"));
    fs::write(&first, talk.to_string())?;
    let arguments = ["-m", "4", "--load", first.to_str().ok_or("path")?];
    let mut terminal = Terminal::open(chat(folder.path(), &arguments))?;
    terminal.expect(">>> ")?;
    terminal.press("/retry\r")?;
    terminal.expect("not that")?;
    terminal.expect(">>> ")?;
    terminal.press(&format!("/save {}\r", second.display()))?;
    terminal.expect(">>> ")?;
    terminal.press("\x04")?;
    assert_eq!(terminal.child.wait()?.code(), Some(0));
    let saved: Value = serde_json::from_slice(&fs::read(&second)?)?;
    assert_eq!(saved["messages"], talk);
    Ok(())
}

#[test]
fn json_of_an_interrupted_answer_holds_what_came() -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mlx-lm"))
        .args([
            "generate",
            "-p",
            "It was",
            "-m",
            "100000",
            "--max-kv-size",
            "64",
        ])
        .args(["--logit-bias", "0=-inf", "--json-lines", "--model"])
        .arg(prose())
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let first: Value = serde_json::from_str(&lines.next().ok_or("no line")??)?;
    assert!(first["token"].is_u64(), "{first}");
    interrupt(&child)?;
    let last = lines.map_while(Result::ok).last().ok_or("no record")?;
    let record: Value = serde_json::from_str(&last)?;
    assert_eq!(record["finish_reason"], "interrupted", "{record}");
    assert!(record["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(child.wait()?.code(), Some(130));
    Ok(())
}

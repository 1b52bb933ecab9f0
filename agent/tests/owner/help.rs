//! Every `--help`, kept as files. `UPDATE_GOLDEN=1 cargo test -p nightshift-agent --test owner help` writes them anew; read the
//! diff before you commit it.

use super::lab::{program, told};
use std::path::Path;

#[test]
fn help_is_as_it_was_read_last() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/owner/help");
    let mut wrong = Vec::new();
    for words in [
        "",
        "run",
        "status",
        "pause",
        "resume",
        "earnings",
        "history",
        "page",
        "config",
        "config init",
        "config show",
        "config path",
        "doctor",
        "self-test",
        "install",
        "uninstall",
        "leave",
    ] {
        let mut command = program();
        command.args(words.split_whitespace()).arg("--help").env("COLUMNS", "100").env_remove("HOME");
        let (code, text, error) = told(&mut command);
        assert_eq!(code, Some(0), "{words}: {error}");
        let file = folder.join(format!("nightshift-agent {words}").trim().replace(' ', "-") + ".txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push(format!("{}: UPDATE_GOLDEN=1 accepts this:\n{text}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

//! Error texts of libtorch and of workers, made fit for a job's owner.
//!
//! *In*: any text. *Out*: at most [`LIMIT`] characters that name no path of this machine. *Invariant*: printable, so that
//! it may stand in a log, a condition or a terminal.

use nightshift_types::FailureReason;

/// Longest message, in characters.
pub const LIMIT: usize = 500;

/// Bounds a text, drops control characters, and shortens each absolute path to its last part.
pub fn clean(text: &str) -> String {
    let printable: String =
        text.chars().take(4 * LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let words: Vec<&str> = printable.split_whitespace().map(without_path).collect();
    words.join(" ").chars().take(LIMIT).collect()
}

fn without_path(word: &str) -> &str {
    let quotes = |c: char| "\"'`([{<:,".contains(c);
    let bare = word.trim_start_matches(quotes);
    let looks_like_path = bare.starts_with('/') && bare[1..].contains('/');
    if looks_like_path { bare.rsplit('/').next().unwrap_or("") } else { word }
}

/// The lines of a libtorch error that say what went wrong: TorchScript puts them last, C++ puts them first and a stack of
/// frames behind.
pub fn essence(text: &str) -> String {
    let text = text.strip_prefix("Internal torch error: ").unwrap_or(text);
    let head = text.split("Exception raised from").next().unwrap_or(text);
    let raised = head.rfind("Error: ").map(|at| head[..at].rfind('\n').map_or(0, |line| line + 1));
    clean(match raised {
        Some(start) if head.contains("TorchScript interpreter") => &head[start..],
        _ => head,
    })
}

/// Whether a libtorch error is about memory: the allocators throw no type of their own through libtorch's C interface, so
/// their words are all there is.
pub fn is_out_of_memory(text: &str) -> bool {
    ["can't allocate memory", "out of memory", "std::bad_alloc"].iter().any(|words| text.contains(words))
}

/// Why libtorch failed while doing what `otherwise` names.
pub fn blame(text: &str, otherwise: FailureReason) -> FailureReason {
    if is_out_of_memory(text) { FailureReason::OutOfMemory } else { otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned() {
        assert_eq!(clean("open /home/anna/.cache/m.pt:\u{1b}[31m no\n"), "open m.pt: [31m no");
        assert_eq!(clean("at \"/a/b/c.cpp\" and/or"), "at c.cpp\" and/or");
        assert_eq!(clean(&"x".repeat(10_000)).chars().count(), LIMIT);
    }

    #[test]
    fn the_essence_of_torchscript_errors() {
        let text = "Internal torch error: The following operation failed in the TorchScript interpreter.\nTraceback of \
                    TorchScript, serialized code (most recent call last):\n  File \"code/x.py\", line 1\nRuntimeError: mat1 \
                    and mat2 shapes cannot be multiplied\n";
        assert_eq!(essence(text), "RuntimeError: mat1 and mat2 shapes cannot be multiplied");
        let cpp =
            "Internal torch error: PytorchStreamReader failed\nException raised from f at /pytorch/c.cc:1\nframe #0";
        assert_eq!(essence(cpp), "PytorchStreamReader failed");
    }
}

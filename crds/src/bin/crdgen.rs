//! Writes `crds/yaml/*.yaml` from the Rust types, and the same again for the Helm chart, which cannot reach out of its own
//! folder; with `--check` changes nothing and exits 1, naming each file that differs.

use nightshift_crds::schema::to_yaml;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        other => {
            eprintln!("crdgen: unknown arguments {other:?}; usage: crdgen [--check]");
            return ExitCode::from(2);
        }
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut failed = false;
    for folder in [root.join("yaml"), root.join("../charts/nightshift/files/crds")] {
        for crd in nightshift_crds::all() {
            failed |= !generate(&folder, &nightshift_crds::file_name(&crd), &to_yaml(&crd), check);
        }
    }
    ExitCode::from(u8::from(failed))
}

/// Writes or checks one file; `false`, once it has been said, if that failed.
fn generate(folder: &Path, name: &str, yaml: &str, check: bool) -> bool {
    let path = folder.join(name);
    if std::fs::read_to_string(&path).is_ok_and(|old| old == yaml) {
        return true;
    }
    if check {
        let path = path.display();
        eprintln!("crdgen: {path} is not what the types say; run `cargo run -p nightshift-crds --bin crdgen`");
        return false;
    }
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, yaml));
    if let Err(error) = &written {
        eprintln!("crdgen: cannot write {}: {error}", path.display());
    }
    written.is_ok()
}

//! Writes `crds/yaml/*.yaml` from the Rust types; with `--check` changes nothing and exits 1, naming each file that differs.

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut failed = false;
    for crd in nightshift_crds::all() {
        let path = folder.join(nightshift_crds::file_name(&crd));
        let yaml = to_yaml(&crd);
        let same = std::fs::read_to_string(&path).is_ok_and(|old| old == yaml);
        if check && !same {
            eprintln!(
                "crdgen: {} is not what the types say; run `cargo run -p nightshift-crds --bin crdgen`",
                path.display()
            );
            failed = true;
        }
        if !check
            && !same
            && let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, yaml))
        {
            eprintln!("crdgen: cannot write {}: {error}", path.display());
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}

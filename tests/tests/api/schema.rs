//! The OpenAPI document is right: schemathesis asks `wgrelay serve` for everything that the document allows, and for what
//! it does not, and compares the answers with it.

use std::process::Stdio;

use relay_tests::command::program;

use crate::command_line::Serving;

#[test]
fn the_api_is_as_its_document_says() {
    const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/schemathesis.toml");
    let serving = Serving::start();
    let token = serving.secret("token create --role admin --id tester");
    // The document's examples have this name: so there is something for them to be about.
    serving.prints("network create host-a --ipv4 10.10.0.0/16");
    let mut schemathesis = program("schemathesis");
    schemathesis
        .args(["--config-file", CONFIGURATION, "run"])
        .arg(format!("{}/v1/openapi.json", serving.url()));
    // It keeps what it found in the directory that it runs in.
    schemathesis.current_dir(serving.directory.path()).env("WGRELAY_TOKEN", token);
    let output =
        schemathesis.stdin(Stdio::null()).output().expect("`cargo xtask setup` installs schemathesis");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    println!("{report}");
}

// Included by the tests of every binary, which say BINARY and FAILS: arguments that fail with exit code
// 1 or 2, for the manifest `m.toml` and other files that do not exist.

use std::process::Command;

#[track_caller]
fn failure(args: &str, code: i32, kind: &str) -> String {
    let mut command = Command::new(BINARY);
    let output = command.args(args.split_whitespace()).current_dir(env!("CARGO_TARGET_TMPDIR")).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args}: {err}");
    let object: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args}: {e}: {out:?}"));
    assert_eq!(object.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"], "{out}");
    let error = &object["error"];
    assert_eq!((&error["kind"], &error["exit_code"]), (&kind.into(), &code.into()), "{args}: {out}");
    let message = error["message"].as_str().unwrap();
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
    // The sentence is said as without the flag.
    if kind != "usage" {
        assert!(err.trim_end().ends_with(&format!(": {message}")), "{err}");
    }
    message.to_owned()
}

#[test]
fn a_failure_is_an_object_with_json() {
    for (args, code, kind) in FAILS {
        failure(&format!("{args} --json"), *code, kind);
        failure(&format!("{args} -q --json"), *code, kind);
    }
    let message = failure("--json --nonsense", 2, "usage");
    assert!(message.starts_with("unexpected argument '--nonsense' found"), "{message}");
    let plain = Command::new(BINARY).arg("--nonsense").output().unwrap();
    assert!(plain.stdout.is_empty() && plain.status.code() == Some(2));
    let help = Command::new(BINARY).args(["--json", "--help"]).output().unwrap();
    assert!(help.status.success() && !String::from_utf8(help.stdout).unwrap().starts_with('{'));
}

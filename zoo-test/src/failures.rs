//! What a program that fails prints with `--json`.

use serde_json::Value;

use crate::Workspace;

/// Arguments that fail, for the manifest `m.toml` and other files that do not exist; the exit code;
/// the kind of failure.
pub type Failure = (&'static str, i32, &'static str);

/// Every failure is one JSON object, whose message standard error has too; and so is an unknown flag.
#[track_caller]
pub fn are_objects_with_json(program: &'static str, failures: &[Failure]) {
    let work = Workspace::new(program);
    for (args, code, kind) in failures {
        message(&work, &format!("{args} --json"), *code, kind);
        message(&work, &format!("{args} -q --json"), *code, kind);
    }
    let unknown = message(&work, "--json --nonsense", 2, "usage");
    assert!(unknown.starts_with("unexpected argument '--nonsense' found"), "{unknown}");
    let plain = work.run("--nonsense");
    assert!(plain.stdout.is_empty() && plain.code == 2, "{plain:?}");
    assert!(!work.ok("--json --help").starts_with('{'));
}

/// The message of one failure.
#[track_caller]
fn message(work: &Workspace, args: &str, code: i32, kind: &str) -> String {
    let outcome = work.run(args);
    let object = outcome.json();
    assert_eq!(object.as_object().expect("an object").keys().collect::<Vec<_>>(), ["error"], "{outcome:?}");
    let error = &object["error"];
    assert_eq!((&error["kind"], &error["exit_code"]), (&Value::from(kind), &Value::from(code)), "{outcome:?}");
    let message = error["message"].as_str().expect("a message").to_owned();
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
    let said = outcome.fails(code);
    // The message is the same as without the flag.
    if kind != "usage" {
        assert!(said.trim_end().ends_with(&format!(": {message}")), "{said}");
    }
    message
}

//! Outputs have the modes that the user wants.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zoo_test::files;

use crate::{assert_untouched, TinyZoo};

#[test]
fn outputs_honour_the_umask_and_a_finished_root_may_be_read_only() {
    let work = TinyZoo::new();
    let zoo = work.program().path();
    for (umask, file, folder) in [("002", 0o664, 0o775), ("077", 0o600, 0o700), ("022", 0o644, 0o755)] {
        let _ = fs::remove_dir_all(work.path("root"));
        work.shell(&format!("umask {umask}; '{zoo}' run tiny.toml --models 1 --epochs 1 --root root")).ok();
        let mut folders = vec![work.path("root")];
        while let Some(next) = folders.pop() {
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&next), folder, "{}", next.display());
            for entry in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
                match entry.is_dir() {
                    true => folders.push(entry),
                    false => assert_eq!(mode(&entry), file, "{}", entry.display()),
                }
            }
        }
    }
    // As somebody else, who may read all of it and write none: only root can become another user.
    work.ok("run tiny.toml --models 1 --epochs 1");
    let before = files(work.root());
    fs::set_permissions(work.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let run = format!("'{zoo}' run tiny.toml --models 1 --epochs 1 --json");
    let outcome = work.shell(&format!(
        "if [ $(id -u) = 0 ]; then exec setpriv --reuid 65534 --regid 65534 --clear-groups {run}; fi; chmod -R a-w .; {run}; code=$?; chmod -R u+w .; exit $code"
    ));
    outcome.ok();
    assert_untouched(&work, &before);
}

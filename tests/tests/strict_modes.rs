//! `strict_modes` of both programs: what others can write is refused with the command that mends it, else warned of.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use certdeploy_tests::World;
use certdeploy_tests::checked::{check, chmod, says, with};
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::run;

#[test]
fn strict_modes_refuses_what_else_is_a_warning() {
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    let folder = world.path("scripts");
    fs::create_dir(&folder).unwrap();
    let script = folder.join("reload");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    chmod(&script, 0o755);
    let link = world.path("web1/reload");
    symlink(&script, &link).unwrap();
    let extra = |strict: bool| {
        format!("strict_modes: {strict}\nupdate_services: [{{type: script, name: {}}}]\n", link.display())
    };
    with(&mut target, &extra(true));
    let _ = check(&target, &[]).ended(0);
    let config = target.config.clone();
    // (what, its mode, the command that mends it)
    let cases: [(&Path, u32, &str); 4] = [
        (&config, 0o666, "chmod go-w"),
        (&script, 0o775, "chmod go-w"),
        (&folder, 0o777, "chmod go-w"),
        (&target.host_key.clone(), 0o644, "chmod 600"),
    ];
    for (path, mode, way_out) in cases {
        let good = path.metadata().unwrap().permissions().mode() & 0o7777;
        chmod(path, mode);
        let way_out = format!("mend it with: {way_out} {}", path.display());
        let key = path == target.host_key;
        with(&mut target, &extra(true));
        let ran = check(&target, &[]).ended(1);
        assert!(ran.said().contains(&way_out) || path == script, "{way_out} is not in {}", ran.said());
        let mut command = target.command();
        let ran = run({
            command.arg("--daemon");
            command
        });
        let _ = ran.ended(1);
        with(&mut target, &extra(false));
        let ran = check(&target, &[]).ended(if key { 1 } else { 0 });
        assert!(key || ran.said().contains("warning: "), "{}", ran.said());
        chmod(path, good);
    }
    with(&mut target, &extra(true));
    chown(&script, Some(4711), None).unwrap();
    says(&check(&target, &[]).ended(1), &["belongs to user 4711, who can change it; mend it with: chown root"]);
    chown(&script, Some(0), None).unwrap();
    let _ = check(&target, &[]).ended(0);
}

/// An ordinary user's `conf`, made with umask 002, as a container has it mounted.
#[test]
fn strict_modes_only_warns_of_files_that_were_mounted_into_a_container() {
    if !can_run("client_check::strict_modes_only_warns", &[Need::Root, Need::Program("unshare")]) {
        return;
    }
    let world = World::new();
    let mut target = world.target("web1", &["example.com"]);
    with(&mut target, "strict_modes: true\n");
    let conf = world.path("conf");
    fs::create_dir(&conf).unwrap();
    let moved = conf.join("client.yml");
    fs::copy(&target.config, &moved).unwrap();
    chmod(&conf, 0o775);
    chmod(&moved, 0o664);
    // In a container it is another file system than the root's.
    let script = "mount -t tmpfs none \"$1\"; cp \"$0\"/client.yml \"$1\"; chmod 775 \"$1\"; chmod 664 \"$1\"/client.yml; \
                  test -e /.dockerenv || { mount -t tmpfs none /run; touch /run/.containerenv; }; shift; exec \"$@\"";
    let mounted = world.path("mounted");
    fs::create_dir(&mounted).unwrap();
    let mut unshare = certdeploy_tests::process::command("/usr/bin/unshare");
    unshare.args(["--mount", "/bin/sh", "-euc", script]).arg(&conf).arg(&mounted);
    unshare.arg(certdeploy_tests::process::binary("certdeploy-client"));
    unshare.arg("--config").arg(mounted.join("client.yml")).arg("check");
    says(&run(unshare).ended(0), &["can be written by others (mode 0664)", "chmod go-w"]);
    target.config = moved;
    says(&check(&target, &[]).ended(1), &["can be written by others (mode 0664)", "chmod go-w"]);
}

#[test]
fn the_server_has_strict_modes_too() {
    let world = World::new();
    let target = world.target("web1", &["example.com"]);
    let _lineage = world.lineage("example.com", &["example.com"]);
    for strict in [true, false] {
        world.write_server_with(&[&target], &world.queue(), &format!("strict_modes: {strict}\n"));
        chmod(&world.server_config(), 0o644);
        let _ = world.server(&["check"]).ended(0);
        chmod(&world.server_config(), 0o666);
        let ran = world.server(&["check"]).ended(i32::from(strict));
        says(&ran, &["can be written by others (mode 0666); mend it with: chmod go-w "]);
        chmod(&world.path("server"), 0o777);
        let ran = world.server(&["check"]).ended(i32::from(strict));
        says(&ran, &["others can replace `", "mend it with: chmod go-w "]);
        chmod(&world.path("server"), 0o755);
    }
}

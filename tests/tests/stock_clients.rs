//! What people upload with who have no certdeploy-server: sftp, scp, PuTTY, lftp, curl and paramiko, each in the ways it
//! is used. All of them end with 0, and what they put is deployed when they end.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use certdeploy_common::cert::FileName;
use certdeploy_common::ssh::key;
use certdeploy_tests::need::{Need, can_run};
use certdeploy_tests::process::{Ran, command, run};
use certdeploy_tests::wait::{PATIENCE, until};
use certdeploy_tests::{Daemon, Lineage, Target, World, python, sftp};

/// A client, and who may upload to it.
struct Scene {
    client: Daemon,
    target: Target,
    home: PathBuf,
    world: World,
}

/// What the client calls its root.
const ROOTS: [fn(&Scene) -> String; 3] =
    [|_| String::new(), |_| "/".to_owned(), |scene| format!("{}/", scene.target.source.display())];

impl Scene {
    fn new(name: &str, programs: &[&'static str]) -> Option<Self> {
        let needs: Vec<Need> = programs.iter().map(|name| Need::Program(name)).collect();
        if !can_run(&format!("stock_clients::{name}"), &needs) {
            return None;
        }
        let world = World::new();
        let target = world.target("web1", &[]);
        let home = world.path("home");
        for folder in [&home, &world.letsencrypt().join("live")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(home.join("known_hosts"), format!("[127.0.0.1]:{} {}\n", target.port, target.pinned)).unwrap();
        Some(Self { client: target.start(), target, home, world })
    }

    /// One for each way of a tool, as certbot has it, with the README that certbot lays beside the files.
    fn lineage(&self, name: &str) -> Lineage {
        let lineage = self.world.lineage(name, &[name]);
        std::fs::write(lineage.live.join("README"), "This directory contains your keys and certificates.\n").unwrap();
        lineage
    }

    /// `ssh`'s options.
    fn options(&self) -> Vec<String> {
        let known = self.home.join("known_hosts");
        let words = [
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            &format!("UserKnownHostsFile={}", known.display()),
            &format!("IdentityFile={}", self.world.server_key().display()),
        ];
        let options = words.iter().flat_map(|word| ["-o".to_owned(), (*word).to_owned()]);
        ["-F".to_owned(), "none".to_owned()].into_iter().chain(options).collect()
    }

    /// One of OpenSSH's or ours, in `live/`.
    fn tool(&self, program: &str) -> Command {
        let mut command = command("/usr/bin/env");
        command.arg(program).env("HOME", &self.home).current_dir(self.world.letsencrypt().join("live"));
        command
    }

    fn scp(&self, arguments: &[&str], from: &[&str], to: &str) -> Ran {
        let mut scp = self.tool("scp");
        scp.args(self.options()).args(["-P", &self.target.port.to_string()]).args(arguments).args(from);
        scp.arg(format!("certdeploy@127.0.0.1:{to}"));
        run(scp)
    }

    fn ssh(&self, before: &[&str], after: &[&str]) -> Ran {
        let mut ssh = self.tool("ssh");
        ssh.args(self.options()).args(["-p", &self.target.port.to_string()]).args(before);
        ssh.arg("certdeploy@127.0.0.1").args(after);
        run(ssh)
    }

    fn sftp(&self, batch: &str) -> Ran {
        sftp::batch(&self.world, self.target.port, &self.target.pinned, batch)
    }

    fn lftp(&self, commands: &str) -> Ran {
        let mut lftp = self.tool("lftp");
        let connect = format!("ssh -a -x {}", self.options().join(" "));
        let port = self.target.port;
        let set = "set cmd:fail-exit yes; set net:max-retries 1; set net:timeout 10";
        lftp.arg("-c").arg(format!(
            "{set}; set sftp:connect-program \"{connect}\"; open -p {port} sftp://certdeploy:@127.0.0.1; {commands}"
        ));
        run(lftp)
    }

    /// PuTTY's tools know keys of their own kind only.
    fn putty(&self, program: &str, arguments: &[&str]) -> Ran {
        let key = self.home.join("key.ppk");
        if !key.exists() {
            let mut puttygen = self.tool("puttygen");
            puttygen.arg(self.world.server_key()).arg("-o").arg(&key);
            let _ = run(puttygen).ended(0);
        }
        let mut tool = self.tool(program);
        let pinned = self.target.pinned.split(' ').nth(1).unwrap();
        tool.args(["-batch", "-hostkey", pinned, "-P", &self.target.port.to_string(), "-i"]).arg(key).args(arguments);
        run(tool)
    }

    fn psftp(&self, batch: &str) -> Ran {
        let file = self.home.join("batch");
        std::fs::write(&file, batch).unwrap();
        self.putty("psftp", &["-b", &file.display().to_string(), "certdeploy@127.0.0.1"])
    }

    fn curl(&self, arguments: &[&str], to: &str) -> Ran {
        let mut curl = self.tool("curl");
        let pinned = key::fingerprint(&key::parse_public(&self.target.pinned).unwrap());
        let key = self.world.server_key();
        std::fs::write(self.home.join("key.pub"), &self.world.pusher_key).unwrap();
        curl.args(["-sS", "--hostpubsha256", pinned.strip_prefix("SHA256:").unwrap(), "-u", "certdeploy:", "--key"]);
        curl.arg(key).arg("--pubkey").arg(self.home.join("key.pub")).args(arguments);
        curl.arg(format!("sftp://127.0.0.1:{}/{to}", self.target.port));
        run(curl)
    }

    fn paramiko(&self, lines: &str) -> Ran {
        let begin = format!(
            "import os, paramiko\nssh = paramiko.SSHClient()\nssh.load_host_keys('{}')\n\
             ssh.connect('127.0.0.1', {}, 'certdeploy', key_filename='{}', allow_agent=False, look_for_keys=False)\n\
             sftp = ssh.open_sftp()\n",
            self.home.join("known_hosts").display(),
            self.target.port,
            self.world.server_key().display(),
        );
        let mut python = self.tool(&python::program("0.5.4", "python").unwrap().display().to_string());
        python.arg("-c").arg(begin + lines);
        run(python)
    }

    /// It is deployed, whole, with the modes of what the server pushes.
    #[track_caller]
    fn deployed(&self, lineage: &Lineage, ran: &Ran) {
        assert_eq!(ran.code, Some(0), "{}{}", ran.said(), self.client.said());
        let what = format!("{} is deployed; the tool said:\n{}{}", lineage.name, ran.said(), self.client.said());
        until(&what, PATIENCE, || self.target.holds(lineage).then_some(()));
        assert_eq!(self.target.file(&lineage.name, FileName::Chain).as_ref(), Some(&lineage.issued.chain));
        let mode = |name| self.target.deployed(&lineage.name).join(name).metadata().unwrap().permissions().mode();
        assert_eq!((mode("privkey.pem") & 0o7777, mode("fullchain.pem") & 0o7777), (0o600, 0o644));
    }

    /// Nothing came of it, and the log says why.
    #[track_caller]
    fn dropped(&mut self, name: &str, why: &str) {
        self.client.says(&format!("Dropped the upload of {name}: {why}"));
        assert!(!self.target.deployed(name).exists());
        assert!(self.client.runs());
    }
}

#[test]
fn sftp_puts_a_lineage_in_each_way_to_name_it() {
    let Some(scene) = Scene::new("sftp", &["sftp"]) else { return };
    for (n, root) in ROOTS.into_iter().enumerate() {
        let lineage = scene.lineage(&format!("sftp{n}.example"));
        let (there, live) = (format!("{}{}", root(&scene), lineage.name), lineage.live.display().to_string());
        let mut batch = format!("mkdir {there}\nls -la\nput -p {live}/privkey.pem {there}\nls -l {there}\n");
        // Put, overwritten, taken back, put under another name.
        let _ = write!(batch, "put {live}/chain.pem {there}/fullchain.pem\nput {live}/fullchain.pem {there}/\n");
        let _ = write!(batch, "put {live}/chain.pem {there}/cert.pem\nrm {there}/cert.pem\n-mkdir {there}\n");
        let _ = write!(
            batch,
            "put {live}/chain.pem {there}/chain.pem.tmp\nrename {there}/chain.pem.tmp {there}/chain.pem\n"
        );
        let _ = write!(batch, "chmod 644 {there}/privkey.pem\ncd {there}\npwd\nls\ncd ..\nmkdir empty\nrmdir empty\n");
        let ran = scene.sftp(&batch);
        scene.deployed(&lineage, &ran);
    }
    let lineage = scene.lineage("sftp3.example");
    let ran = scene.sftp(&format!("mkdir sftp3.example\nput {}/*.pem sftp3.example/\n", lineage.live.display()));
    scene.deployed(&lineage, &ran);
    let got = scene.home.join("got");
    let _ = scene.sftp(&format!("get sftp3.example/privkey.pem {}\n", got.display())).ended(1);
    assert!(!got.exists(), "nobody gets a key back");
}

#[test]
fn scp_copies_a_lineage_as_certbot_has_it() {
    let Some(scene) = Scene::new("scp", &["scp"]) else { return };
    for (n, root) in ROOTS.into_iter().enumerate() {
        let name = format!("scp{n}.example");
        let lineage = scene.lineage(&name);
        scene.deployed(&lineage, &scene.scp(&["-r", "-p"], &[&name], &root(&scene)));
        let lineage = scene.lineage(&format!("to-{name}"));
        let there = format!("{}to-{name}", root(&scene));
        scene.deployed(&lineage, &scene.scp(&["-r"], &[&lineage.name], &there));
    }
    let lineage = scene.lineage("files.example");
    let names = ["privkey", "fullchain", "chain"].map(|name| format!("files.example/{name}.pem"));
    let ran = scene.scp(&[], &names.each_ref().map(String::as_str), "files.example/");
    scene.deployed(&lineage, &ran);
    let legacy = scene.scp(&["-O"], &["files.example/privkey.pem"], "files.example/");
    assert!(legacy.code != Some(0) && legacy.elapsed < Duration::from_secs(30), "{legacy:?}");
    assert!(legacy.said().contains("exec request failed"), "{}", legacy.said());
}

#[test]
fn putty_s_tools_put_a_lineage() {
    let Some(scene) = Scene::new("putty", &["psftp", "puttygen"]) else { return };
    for (n, root) in ROOTS.into_iter().enumerate() {
        let lineage = scene.lineage(&format!("psftp{n}.example"));
        let there = format!("{}{}", root(&scene), lineage.name);
        let files =
            "put privkey.pem\nput chain.pem fullchain.pem\nput fullchain.pem\nput chain.pem\nls\nchmod 600 chain.pem";
        let batch = format!("mkdir {there}\ncd {there}\nlcd {}\n{files}\ncd ..\npwd\nquit\n", lineage.live.display());
        scene.deployed(&lineage, &scene.psftp(&batch));
    }
    let lineage = scene.lineage("whole.example");
    scene.deployed(&lineage, &scene.psftp("put -r whole.example\n"));
    let lineage = scene.lineage("pscp.example");
    let ran = scene.putty("pscp", &["-r", &lineage.live.display().to_string(), "certdeploy@127.0.0.1:"]);
    scene.deployed(&lineage, &ran);
}

#[test]
fn lftp_puts_and_mirrors_a_lineage() {
    let Some(scene) = Scene::new("lftp", &["lftp"]) else { return };
    for (n, root) in ROOTS.into_iter().enumerate() {
        for temporary in ["no", "yes"] {
            let set = format!("set xfer:use-temp-file {temporary}");
            let lineage = scene.lineage(&format!("put{n}-{temporary}.example"));
            let (there, live) = (format!("{}{}", root(&scene), lineage.name), &lineage.name);
            let put = format!("put -O {there} {live}/privkey.pem {live}/chain.pem {live}/fullchain.pem");
            let ran = scene.lftp(&format!("{set}; mkdir -p {there}; {put}; {put}; ls {there}; cd {there}; cd .."));
            scene.deployed(&lineage, &ran);
            let lineage = scene.lineage(&format!("mirror{n}-{temporary}.example"));
            let there = format!("{}{}", root(&scene), lineage.name);
            // lftp takes its leave by killing ssh, sooner or later: each time the upload counts.
            scene.deployed(&lineage, &scene.lftp(&format!("{set}; mirror -R -L {} {there}", lineage.name)));
        }
    }
}

#[test]
fn curl_puts_a_lineage() {
    let Some(scene) = Scene::new("curl", &["curl"]) else { return };
    for (n, root) in ["", "~/", "certdeploy-source/"].into_iter().enumerate() {
        let lineage = scene.lineage(&format!("curl{n}.example"));
        let root = root.replace("certdeploy-source/", &format!("{}/", scene.target.source.display()));
        let files = ["privkey", "fullchain", "chain"].map(|name| format!("{}/{name}.pem", lineage.name)).join(",");
        let there = format!("{}{}/", root.trim_start_matches('/'), lineage.name);
        let ran = scene.curl(&["--ftp-create-dirs", "-T", &format!("{{{files}}}")], &there);
        scene.deployed(&lineage, &ran);
    }
}

const PARAMIKO: [Need; 1] = [Need::Python("0.5.4")];

#[test]
fn paramiko_puts_a_lineage() {
    let Some(scene) = Scene::new("paramiko", &[]).filter(|_| can_run("stock_clients::paramiko", &PARAMIKO)) else {
        return;
    };
    for (n, root) in ROOTS.into_iter().enumerate() {
        let lineage = scene.lineage(&format!("paramiko{n}.example"));
        let ran = scene.paramiko(&format!(
            "at, live = '{}{name}', '{name}/'\nsftp.mkdir(at, 0o700)\n\
             try:\n  sftp.mkdir(at)\n  raise SystemExit('made twice')\nexcept OSError: pass\n\
             sftp.put(live + 'privkey.pem', at + '/privkey.pem')\nsftp.chmod(at + '/privkey.pem', 0o600)\n\
             sftp.putfo(open(live + 'chain.pem', 'rb'), at + '/fullchain.pem', confirm=True)\n\
             sftp.put(live + 'fullchain.pem', at + '/fullchain.pem.part')\n\
             sftp.posix_rename(at + '/fullchain.pem.part', at + '/fullchain.pem')\n\
             sftp.chdir(at)\nsftp.open('.in.chain.pem', 'w').write(open(live + 'chain.pem').read())\n\
             sftp.rename('.in.chain.pem', 'chain.pem')\nsftp.chdir('..')\n\
             assert sorted(sftp.listdir('{name}')) == ['chain.pem', 'fullchain.pem', 'privkey.pem']\n\
             assert '{name}' in sftp.listdir()\nsftp.close()\nssh.close()\n",
            root(&scene),
            name = lineage.name,
        ));
        scene.deployed(&lineage, &ran);
    }
}

#[test]
fn a_session_that_is_not_ended_deploys_nothing() {
    let Some(mut scene) = Scene::new("broken", &[]).filter(|_| can_run("stock_clients::broken", &PARAMIKO)) else {
        return;
    };
    let lineage = scene.lineage("broken.example");
    let put = |to: &str, names: &[&str]| {
        let mut lines = format!("sftp.mkdir('{to}')\n");
        for name in names {
            let _ = writeln!(lines, "sftp.put('{}/{name}', '{to}/{name}')", lineage.name);
        }
        lines
    };
    let two = ["privkey.pem", "fullchain.pem"];
    let _ = scene.paramiko(&(put("killed.example", &two) + "os._exit(7)\n")).ended(7);
    scene.dropped("killed.example", "the connection broke");
    let open = "file = sftp.open('open.example/chain.pem', 'w')\nfile.write('-----BEGIN')\nsftp.close()\nssh.close()\n";
    let _ = scene.paramiko(&(put("open.example", &two) + open)).ended(0);
    scene.dropped("open.example", "the session ended with a file still open");
    let left = "sftp.open('left.example/chain.pem.tmp', 'w').close()\nsftp.close()\nssh.close()\n";
    let _ = scene.paramiko(&(put("left.example", &two) + left)).ended(0);
    scene.dropped("left.example", "a file was not renamed");
    let whole =
        scene.paramiko(&(put(&lineage.name, &["privkey.pem", "fullchain.pem", "chain.pem"]) + "sftp.close()\n"));
    scene.deployed(&lineage, &whole);
}

#[test]
fn ssh_gets_nothing_but_sftp_and_hears_so_at_once() {
    let Some(mut scene) = Scene::new("ssh", &["ssh"]) else { return };
    let cases: [(&[&str], &[&str], &str); 7] = [
        (&[], &["true"], "exec request failed"),
        (&["-T"], &[], "shell request failed"),
        (&["-tt"], &[], "PTY allocation request failed"),
        (&["-s"], &["netconf"], "subsystem request failed"),
        (&["-W", "localhost:22"], &[], "stdio forwarding failed"),
        (&["-N", "-o", "ExitOnForwardFailure=yes", "-R", "1:localhost:22"], &[], "remote port forwarding failed"),
        (&["-o", "SendEnv=LANG", "-X"], &["id"], "exec request failed"),
    ];
    for (before, after, words) in cases {
        let ran = scene.ssh(before, after).ended(255);
        assert!(ran.said().contains(words), "{before:?} {after:?}: {}", ran.said());
        assert!(ran.elapsed < Duration::from_secs(30), "{before:?} {after:?} took {:?}", ran.elapsed);
    }
    let lineage = scene.lineage("after.example");
    let _ = scene.scp(&["-r"], &[&lineage.name], "").ended(0);
    assert!(scene.client.runs());
}

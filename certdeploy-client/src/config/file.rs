//! `client.yml` as people write it: the one list of its settings. Parsing, the reference and the tests' table come
//! from here. Must not open files.

use certdeploy_common::setting::mode::ModeText;
use certdeploy_common::setting::value::{
    Bytes, Count, Delay, Given, Level, List, LogFormatText, Maybe, MaybePath, Nested, PathText, Port, Positive,
    Seconds, Switch, Text, Verbatim,
};
use certdeploy_common::settings;

use super::kinds::{FileText, OnFailureText, TextMap, UpdateTypeText};
use super::pushers::PusherEntry;

settings! {
    /// Keys of `client.yml`.
    pub struct ClientFile ("config option") {
        destination: PathText = required, old [], "The directory the certificates are put in. Each lineage gets a directory of its own in it, as in `/etc/letsencrypt/live` of certbot. Must exist.";
        source: PathText = yaml "/var/cache/certdeploy", old [], "The staging directory: where uploads arrive. Must exist.";
        sftpd: Nested<SftpdFile> = yaml "null", old [], "The embedded SFTP daemon, see below.";
        update_services: List<Nested<UpdateFile>> = yaml "[]", old ["update_sevices"], "What uses the certificates and is updated after a deployment, in this order, see below.";
        update_delay: Delay = yaml "1h", old [], "How long the daemon waits after the last deployment before it runs the updates, as numbers with the units `w`, `d`, `h`, `m`, `s`, or their words: `1h30m`, `10min`, `1h, 30m`. `null` or `0` is no delay.";
        systemd_exec: MaybePath = yaml "null", old [], "The `systemctl` to run for `systemd` updates. Not given, or empty: systemd is asked over D-Bus.";
        rc_service_exec: MaybePath = yaml "null", old [], "The `service` to run for `rc` updates. Not given, or empty: `service` in `PATH`.";
        init_timeout: Maybe<Seconds> = yaml "300", old ["systemd_timeout"], "How long a `systemd` or `rc` update may take, in seconds. `null` waits for ever.";
        docker_url: Maybe<Text> = yaml "unix:///var/run/docker.sock", old [], "Where the Docker engine listens: `unix://PATH`, `tcp://HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`; with the files below `tcp` is TLS too. Without a host 127.0.0.1 is meant; `null` or empty is the default. `DOCKER_HOST` is not heeded.";
        docker_tls_ca: Maybe<PathText> = yaml "null", old [], "A file with the certificates that the engine's certificate must be issued by. Not given, for `https`: the system's, `/etc/ssl/certs/ca-certificates.crt`.";
        docker_tls_cert: Maybe<PathText> = yaml "null", old [], "A file with our own certificate, for an engine that demands one (`--tlsverify`).";
        docker_tls_key: Maybe<PathText> = yaml "null", old [], "The private key of `docker_tls_cert`.";
        docker_timeout: Maybe<Seconds> = yaml "10", old [], "How long a container may take to end before the engine kills it, in seconds. `null`: as the container says (`stop_timeout`), or 10.";
        docker_request_timeout: Seconds = yaml "60", old [], "How long the Docker engine may take to answer one request, in seconds, beside what it is asked to wait for.";
        docker_service_timeout: Maybe<Seconds> = yaml "300", old [], "How long the rollout of a swarm service is waited for, in seconds. `null` waits for ever.";
        docker_secret_interval: Maybe<Seconds> = yaml "3600", old [], "How often the daemon looks whether services still refer to the current version of each `docker_secret`, in seconds, beside its start: a `docker stack deploy` may let them refer to the first one again. `null`: never.";
        update_retry_interval: Maybe<Seconds> = yaml "60", old [], "How long the daemon waits before it runs failed updates again, in seconds; twice as long each time. `null`: only at the next start, or by `certdeploy-client update --failed`.";
        update_retry_max_interval: Seconds = yaml "3600", old [], "The longest pause between two runs of failed updates, in seconds.";
        update_wait: Seconds = yaml "900", old [], "How long the end of updates is waited for that another certdeploy-client runs on this machine, in seconds. After that they are run beside them.";
        script_timeout: Maybe<Seconds> = yaml "600", old [], "How long a `script` may run, in seconds. `null` waits for ever.";
        keep_generations: Positive = yaml "3", old [], "How many deployed sets of files of each lineage are kept, the current one included. With 1, the one before stays too. A set that is there twice after a rollback counts once until the next deployment.";
        generation_min_age: Seconds = yaml "60", old [], "How long a replaced set of files is kept at least, in seconds, for programs that are still reading it.";
        file_permissions: Nested<PermissionsFile> = yaml "null", old [], "Mode and owner of what is deployed, see below.";
        validate_timeout: Seconds = yaml "10", old [], "How long the check of one upload may take, in seconds.";
        settle_time: Seconds = yaml "60", old [], "One pass: how long files in `source` that are no whole set yet are waited for after the last change to one of them, in seconds. After that they count as invalid. A lineage's first files without a key, or without a certificate, are waited for as long, by a pass for 10 s at most, and then deployed as they are.";
        fail_fast: Switch = yaml "false", old [], "Stop at the first update that fails; one pass then ends with exit code 1.";
        strict_modes: Switch = yaml "false", old [], "Refuse to run when others can write this config, the key files or an executable that is named here, or a directory above them, or can read a key; the message names the command that mends it. `false` only warns. Files that were mounted into a container only warn.";
        log_filename: MaybePath = yaml "null", old [], "A file that the log is appended to as well. Empty is `null`.";
        log_format: LogFormatText = yaml "auto", old [], "`text` for lines `LEVEL:certdeploy-client: message`, `json` for one JSON object a line, `journald` for systemd's journal; `auto` is `journald` when systemd has connected the output to it, else `text`.";
        log_level: Level = yaml "ERROR", old [], "What is logged: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`.";
    }
}

settings! {
    /// Keys of `sftpd`.
    pub struct SftpdFile ("sftpd option") {
        listen_port: Port = yaml "22", old [], "The TCP port to listen on.";
        listen_address: List<Text> = yaml "[]", old [], "The IP address to listen on, or a list of them; each may have a port of its own, like `192.0.2.1:2222` or `[2001:db8::1]:2222`. A host name like `localhost` stands for all its addresses at the start. `null` or empty: all addresses, IPv6 and IPv4. Not used when systemd hands over sockets.";
        socket_backlog: Count = yaml "128", old [], "How many connections may wait to be taken in, for each address. The system's `net.core.somaxconn` is the most there can be; 0 is taken as 1.";
        username: Text = yaml "certdeploy", old [], "The name the pusher must log in with.";
        privkey_filename: MaybePath = yaml "null", old ["privkey_file"], "The host key: an ed25519 or ECDSA private key that only its owner can read. Needed by `--daemon`. Empty is `null`.";
        privkey: Maybe<Text> = yaml "null", old [], "The host key itself, instead of `privkey_filename`, as a block of lines (`privkey: |`). The config must then be as private as a key.";
        server_pubkey: List<PusherEntry> = yaml "[]", old [], "The public key of the pusher, as one line; or a list of them for several pushers. An entry may also be a mapping that confines its pusher to some lineages, see below.";
        server_pubkey_filename: MaybePath = yaml "null", old ["server_pubkey_file"], "A file with the public key of the pusher, or with several, one on each line; `#` begins a comment line. Wins over `server_pubkey`. Empty is `null`.";
        user: Text = yaml "certdeploy", old [], "The system user the receiver runs as when the daemon is started by root.";
        log_level: Maybe<Level> = yaml "ERROR", old [], "As the `log_level` of the client, for the SSH and SFTP library. `null` is `ERROR`.";
        log_filename: MaybePath = yaml "null", old [], "A file that the log of the SSH and SFTP library is appended to as well. Empty is `null`.";
        login_grace_time: Seconds = yaml "15", old [], "How long a peer may take to authenticate, in seconds.";
        idle_timeout: Seconds = yaml "120", old [], "How long an authenticated peer may be silent, in seconds.";
        session_timeout: Seconds = yaml "600", old [], "How long a connection may last at most, in seconds.";
        max_connections: Positive = yaml "256", old [], "How many authenticated connections may be open at once. One more takes the place of one of the pusher that has most of them; to that pusher itself it is refused.";
        max_startups: Positive = yaml "64", old [], "How many peers may be connected at once that have not begun the key exchange, and again how many that have and have not authenticated yet. One more takes the place of the one that has been there longest.";
        max_startups_per_address: Positive = yaml "8", old [], "How many of either kind may come from one address (IPv6: from one /64). One more takes the place of the oldest of its kind and address.";
        pusher_addresses: List<Text> = yaml "[]", old [], "IP addresses of the pusher: these two limits are not for them, `max_connections` is. Not given: the address that authenticated last.";
        max_handles: Positive = yaml "32", old [], "How many files one connection may have open at once.";
        max_lineages: Positive = yaml "1024", old [], "How many lineages one connection may upload.";
        max_upload: Bytes = yaml "67108864", old [], "How many bytes one connection may upload, all its files together.";
        max_packet: Bytes = yaml "262144", old [], "The largest SFTP packet taken, in bytes.";
        receipt_wait: Seconds = yaml "20", old [], "How long a pusher that asks for its receipt is kept waiting for the verdict, in seconds.";
        drain_timeout: Seconds = yaml "10", old [], "How long open connections may go on after SIGTERM, and those of before after SIGHUP, in seconds.";
    }
}

settings! {
    /// Keys of an entry of `update_services`.
    pub struct UpdateFile ("update_services option", lenient) {
        r#type: UpdateTypeText = required, old [], "What kind of thing is updated: `systemd`, `rc`, `script`, `docker_container`, `docker_service` or `docker_secret`.";
        name: Maybe<Text> = yaml "null", old [], "`systemd`: the unit with its ending, like `nginx.service`. `rc`: the service. `script`: the path of the executable; absolute, else looked up in `PATH`, else relative to the working directory; it must exist. `docker_container`: the exact name; with `filters` only a label. `docker_service`: the exact name; `filters` are not heeded then. `docker_secret`: the secret's name without the version, at most 51 characters; `{lineage}` in it stands for the lineage's name.";
        action: Maybe<Text> = yaml "null", old [], "`systemd`: `restart` (default), `reload`, `reload-or-restart`, `try-restart`, `start` or `stop`. `rc`: `restart` (default) or `reload`. `docker_container`: `restart` (default), `start`, `stop`, `signal` or `exec`.";
        args: List<Verbatim> = yaml "[]", old [], "`script`: its arguments.";
        env: Maybe<TextMap> = yaml "null", old [], "`script`: variables it gets as well. A name is not empty and holds no `=`.";
        cwd: Maybe<PathText> = yaml "null", old [], "`script`: the directory it starts in. Not given: that of the client.";
        user: Maybe<Text> = yaml "null", old [], "`script`: the user it runs as. Not given: the user the client runs as.";
        filters: Maybe<TextMap> = yaml "null", old [], "`docker_container`, `docker_service`: the engine's filters, like `label: [restart_on_cert_update]`. Everything that matches all of them is updated; that nothing matches is a warning, where a `name` that is nobody's is an error.";
        signal: Maybe<Text> = yaml "null", old [], "`docker_container`: the signal for `action: signal`, like `HUP`.";
        exec: List<Verbatim> = yaml "[]", old [], "`docker_container`: the command for `action: exec`, run inside the container without a shell.";
        file: List<FileText> = yaml "[]", old [], "`docker_secret`: what it holds: `cert`, `chain`, `fullchain` or `privkey`, or several of them, one after the other in this order, like `[fullchain, privkey]`.";
        keep: Count = yaml "1", old [], "`docker_secret`: how many older versions are kept beside the current one.";
        check: List<Text> = yaml "[]", old [], "A command, as a list or as one text that is split at blanks, that must succeed with the new files in place before this is touched, like `nginx -t`. No shell is involved. It gets the environment of a `script`, and may take `script_timeout`, whatever `timeout` says.";
        on_failure: OnFailureText = yaml "keep", old [], "What follows when this, or its `check`, fails: `keep` leaves the new files in place, `rollback` brings the files before them back and runs all updates of these lineages again.";
        lineages: List<Text> = yaml "[]", old [], "Only when one of these lineages changed.";
        domains: List<Text> = yaml "[]", old [], "Only when a lineage changed whose certificate has one of these names. Not given, like `lineages`: when any lineage changed.";
        timeout: Given<Maybe<Seconds>> = unset, old [], "How long this update may take, in seconds. `null` waits for ever. For `docker_container`: how long the container may take to end, and for `action: exec` how long the command may run (not given: `docker_timeout` and `docker_request_timeout` together). Not given: `init_timeout`, `script_timeout`, `docker_timeout` or `docker_service_timeout` (which is for each service that gets a new secret, too).";
    }
}

settings! {
    /// Keys of `file_permissions`.
    pub struct PermissionsFile ("file_permissions option") {
        mode: Maybe<ModeText> = yaml "null", old [], "The mode of every deployed file, in octal with its leading 0, like `0640`. A number without it is refused when it could be read in two ways (`400`, `416`). Not given: 0600 for keys and 0644 for certificates.";
        directory_mode: Maybe<ModeText> = yaml "null", old [], "The mode of the lineage's directories. Not given: 0755.";
        owner: Maybe<Text> = yaml "null", old [], "The owner of files and directories, by name or id. Not given: the user the client runs as.";
        group: Maybe<Text> = yaml "null", old [], "The group of files and directories, by name or id. Not given: that of the user the client runs as.";
        cert: Nested<KindPermissionsFile> = yaml "null", old [], "For `cert.pem` alone: a `mode`, `owner` and `group` of its own; what it does not say holds as above.";
        chain: Nested<KindPermissionsFile> = yaml "null", old [], "For `chain.pem` alone, likewise.";
        fullchain: Nested<KindPermissionsFile> = yaml "null", old [], "For `fullchain.pem` alone, likewise.";
        privkey: Nested<KindPermissionsFile> = yaml "null", old [], "For `privkey.pem` alone, likewise, like `{mode: 0640, group: ssl-cert}`.";
    }
}

settings! {
    /// Keys of `cert`, `chain`, `fullchain` and `privkey` in `file_permissions`.
    pub struct KindPermissionsFile ("file_permissions option") {
        mode: Maybe<ModeText> = yaml "null", old [], "The mode of this kind of file. Not given: the `mode` of `file_permissions`.";
        owner: Maybe<Text> = yaml "null", old [], "Its owner, by name or id. Not given: the `owner` of `file_permissions`.";
        group: Maybe<Text> = yaml "null", old [], "Its group, by name or id. Not given: the `group` of `file_permissions`.";
    }
}

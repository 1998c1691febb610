//! `client.yml` as people write it: the one list of its settings. Parsing, the reference and the tests' table come
//! from here. Must not open files.

use certdeploy_common::setting::value::{
    Bytes, Delay, Given, Level, List, LogFormatText, Maybe, ModeText, Nested, PathText, Port, Positive, Seconds,
    Switch, Text,
};
use certdeploy_common::settings;

use super::kinds::{OnFailureText, TextMap, UpdateTypeText};

settings! {
    /// Keys of `client.yml`.
    pub struct ClientFile ("config option") {
        destination: PathText = required, old [], "The directory the certificates are put in. Each lineage gets a directory of its own in it, as in `/etc/letsencrypt/live` of certbot. Must exist.";
        source: PathText = yaml "/var/cache/certdeploy", old [], "The staging directory: where uploads arrive. Must exist.";
        sftpd: Nested<SftpdFile> = yaml "null", old [], "The embedded SFTP daemon, see below.";
        update_services: List<Nested<UpdateFile>> = yaml "[]", old ["update_sevices"], "What uses the certificates and is updated after a deployment, in this order, see below.";
        update_delay: Delay = yaml "1h", old [], "How long the daemon waits after the last deployment before it runs the updates, as numbers with the units `w`, `d`, `h`, `m`, `s`. `null` or `0` is no delay.";
        systemd_exec: Maybe<PathText> = yaml "null", old [], "The `systemctl` to run for `systemd` updates. Not given: systemd is asked over D-Bus.";
        rc_service_exec: Maybe<PathText> = yaml "null", old [], "The `service` to run for `rc` updates. Not given: `service` in `PATH`.";
        init_timeout: Maybe<Seconds> = yaml "300", old ["systemd_timeout"], "How long a `systemd` or `rc` update may take, in seconds. `null` waits for ever.";
        docker_url: Text = yaml "unix:///var/run/docker.sock", old [], "Where the Docker engine listens: `unix://PATH`, `tcp://HOST:PORT` or `http://HOST:PORT`. `DOCKER_HOST` is not heeded.";
        docker_timeout: Maybe<Seconds> = yaml "10", old [], "How long a container may take to end before the engine kills it, in seconds. `null`: as the container says.";
        docker_request_timeout: Seconds = yaml "60", old [], "How long the Docker engine may take to answer one request, in seconds, beside what it is asked to wait for.";
        docker_service_timeout: Maybe<Seconds> = yaml "300", old [], "How long the rollout of a swarm service is waited for, in seconds. `null` waits for ever.";
        update_retry_interval: Maybe<Seconds> = yaml "60", old [], "How long the daemon waits before it runs failed updates again, in seconds; twice as long each time. `null`: only at the next start, or by `certdeploy-client update --failed`.";
        update_retry_max_interval: Seconds = yaml "3600", old [], "The longest pause between two runs of failed updates, in seconds.";
        script_timeout: Maybe<Seconds> = yaml "600", old [], "How long a `script` may run, in seconds. `null` waits for ever.";
        keep_generations: Positive = yaml "3", old [], "How many deployed sets of files of each lineage are kept, the current one included.";
        generation_min_age: Seconds = yaml "60", old [], "How long a replaced set of files is kept at least, in seconds, for programs that are still reading it.";
        file_permissions: Nested<PermissionsFile> = yaml "null", old [], "Mode and owner of what is deployed, see below.";
        validate_timeout: Seconds = yaml "10", old [], "How long the check of one upload may take, in seconds.";
        fail_fast: Switch = yaml "false", old [], "Stop at the first update that fails; one pass then ends with exit code 1.";
        log_filename: Maybe<PathText> = yaml "null", old [], "A file that the log is appended to as well.";
        log_format: LogFormatText = yaml "auto", old [], "`text` for lines `LEVEL:certdeploy-client: message`, `json` for one JSON object a line, `journald` for systemd's journal; `auto` is `journald` when systemd has connected the output to it, else `text`.";
        log_level: Level = yaml "ERROR", old [], "What is logged: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`.";
    }
}

settings! {
    /// Keys of `sftpd`.
    pub struct SftpdFile ("sftpd option") {
        listen_port: Port = yaml "22", old [], "The TCP port to listen on.";
        listen_address: Maybe<Text> = yaml "null", old [], "The address to listen on. `null` or empty: all addresses, IPv6 and IPv4.";
        username: Text = yaml "certdeploy", old [], "The name the pusher must log in with.";
        privkey_filename: Maybe<PathText> = yaml "null", old ["privkey_file"], "The host key: an ed25519 or ECDSA private key that only its owner can read. Needed by `--daemon`.";
        server_pubkey: Maybe<Text> = yaml "null", old [], "The public key of the pusher, as one line.";
        server_pubkey_filename: Maybe<PathText> = yaml "null", old ["server_pubkey_file"], "A file with the public key of the pusher; wins over `server_pubkey`.";
        user: Text = yaml "certdeploy", old [], "The system user the receiver runs as when the daemon is started by root.";
        log_level: Level = yaml "ERROR", old [], "As the `log_level` of the client, for the SSH and SFTP library.";
        log_filename: Maybe<PathText> = yaml "null", old [], "A file that the log of the SSH and SFTP library is appended to as well.";
        login_grace_time: Seconds = yaml "15", old [], "How long a peer may take to authenticate, in seconds.";
        idle_timeout: Seconds = yaml "120", old [], "How long an authenticated peer may be silent, in seconds.";
        session_timeout: Seconds = yaml "600", old [], "How long a connection may last at most, in seconds.";
        max_connections: Positive = yaml "256", old [], "How many authenticated connections may be open at once.";
        max_startups: Positive = yaml "64", old [], "How many peers that have not authenticated may be connected at once. One more takes the place of the one that has been there longest.";
        max_startups_per_address: Positive = yaml "8", old [], "How many of them may come from one address (IPv6: from one /64).";
        pusher_addresses: List<Text> = yaml "[]", old [], "IP addresses of the pusher: these two limits are not for them. Not given: the address that authenticated last.";
        max_handles: Positive = yaml "32", old [], "How many files one connection may have open at once.";
        max_lineages: Positive = yaml "1024", old [], "How many lineages one connection may upload.";
        max_packet: Bytes = yaml "262144", old [], "The largest SFTP packet taken, in bytes.";
        receipt_wait: Seconds = yaml "20", old [], "How long a pusher that asks for its receipt is kept waiting for the verdict, in seconds.";
        drain_timeout: Seconds = yaml "10", old [], "How long open connections may go on after SIGTERM, in seconds.";
    }
}

settings! {
    /// Keys of an entry of `update_services`.
    pub struct UpdateFile ("update_services option") {
        r#type: UpdateTypeText = required, old [], "What kind of thing is updated: `systemd`, `rc`, `script`, `docker_container` or `docker_service`.";
        name: Maybe<Text> = yaml "null", old [], "`systemd`: the unit with its ending, like `nginx.service`. `rc`: the service. `script`: the path of the executable; absolute, else looked up in `PATH`, else relative to the working directory. `docker_container`, `docker_service`: the exact name; with `filters` only a label.";
        action: Maybe<Text> = yaml "null", old [], "`systemd`: `restart` (default), `reload`, `reload-or-restart`, `try-restart`, `start` or `stop`. `rc`: `restart` (default) or `reload`. `docker_container`: `restart` (default), `start`, `stop`, `signal` or `exec`.";
        args: List<Text> = yaml "[]", old [], "`script`: its arguments.";
        env: Maybe<TextMap> = yaml "null", old [], "`script`: variables it gets as well.";
        cwd: Maybe<PathText> = yaml "null", old [], "`script`: the directory it starts in. Not given: that of the client.";
        user: Maybe<Text> = yaml "null", old [], "`script`: the user it runs as. Not given: the user the client runs as.";
        filters: Maybe<TextMap> = yaml "null", old [], "`docker_container`, `docker_service`: the engine's filters, like `label: [restart_on_cert_update]`. Everything that matches all of them is updated.";
        signal: Maybe<Text> = yaml "null", old [], "`docker_container`: the signal for `action: signal`, like `HUP`.";
        exec: List<Text> = yaml "[]", old [], "`docker_container`: the command for `action: exec`, run inside the container without a shell.";
        check: List<Text> = yaml "[]", old [], "A command, as a list or as one text that is split at blanks, that must succeed with the new files in place before this is touched, like `nginx -t`. No shell is involved. It gets the environment of a `script`.";
        on_failure: OnFailureText = yaml "keep", old [], "What follows when this, or its `check`, fails: `keep` leaves the new files in place, `rollback` brings the files before them back and runs all updates of these lineages again.";
        lineages: List<Text> = yaml "[]", old [], "Only when one of these lineages changed.";
        domains: List<Text> = yaml "[]", old [], "Only when a lineage changed whose certificate has one of these names. Not given, like `lineages`: when any lineage changed.";
        timeout: Given<Maybe<Seconds>> = unset, old [], "How long this update may take, in seconds. `null` waits for ever. For `docker_container`: how long the container may take to end. Not given: `init_timeout`, `script_timeout`, `docker_timeout` or `docker_service_timeout`.";
    }
}

settings! {
    /// Keys of `file_permissions`.
    pub struct PermissionsFile ("file_permissions option") {
        mode: Maybe<ModeText> = yaml "null", old [], "The mode of every deployed file. Not given: 0600 for keys and 0644 for certificates.";
        directory_mode: Maybe<ModeText> = yaml "null", old [], "The mode of the lineage's directories. Not given: 0755.";
        owner: Maybe<Text> = yaml "null", old [], "The owner of files and directories, by name or id. Not given: the user the client runs as.";
        group: Maybe<Text> = yaml "null", old [], "The group of files and directories, by name or id. Not given: that of the user the client runs as.";
    }
}

//! The keys of `server.yml` as they are written: names, types, defaults, and the words of the reference. It must not
//! know what the values lead to.

use certdeploy_common::setting::value::{
    Count, Given, Level, List, LogFormatText, Maybe, Nested, PathText, Port, Positive, Seconds, Switch, Text,
};
use certdeploy_common::settings;

use super::kinds::{
    Arguments, EveryText, Interval, JoinLimit, Limit, OnStartText, PushModeText, RemotePath, UnitText, Words,
};

settings! {
    /// Keys of `server.yml`.
    pub struct ServerFile ("config option") {
        privkey_filename: PathText = required, old ["private_key_file"], like ["key", "private_key", "privkey", "privkey_file", "identity_file", "key_filename"],
            "The private SSH key the server logs in with at every target (ed25519 or ECDSA, readable by its owner only). Make one with `certdeploy-server keygen PATH`.";
        privkey_passphrase_filename: Maybe<PathText> = yaml "null", old [], like ["passphrase", "password", "privkey_passphrase", "privkey_password"],
            "A file with the passphrase of `privkey_filename`, readable by its owner only. One line end after it does not count.";
        privkey_passphrase_credential: Maybe<Text> = yaml "null", old [],
            "The name of the systemd credential (`LoadCredential=`) with the passphrase of `privkey_filename`. The hook does without: certbot is not given it.";
        privkey_cert_filename: Maybe<PathText> = yaml "null", old [],
            "An OpenSSH user certificate for `privkey_filename` (`..-cert.pub`) to log in with. It is read anew for each login.";
        ssh_agent: Maybe<PathText> = yaml "null", old [], like ["agent", "ssh_auth_sock"],
            "The socket of an SSH agent that holds the key; `privkey_filename` may then name the public key file. No agent is asked unless this is set.";
        known_hosts: Maybe<PathText> = yaml "null", old [],
            "A file in the format of OpenSSH's `known_hosts`, with the host keys of targets that have neither `pubkey` nor `pubkey_filename`. Hashed hosts, `[host]:port`, wildcards and `@revoked` are understood; a revoked key is refused wherever it is pinned; `@cert-authority` is not used. At most 4 MiB. `certdeploy-server enroll HOST` adds to it.";
        client_configs: List<Nested<TargetFile>> = yaml "[]", old [], like ["clients", "targets", "hosts", "servers"],
            "The targets: the hosts that get certificates. At least one, here or in `client_config_directory`; their keys are listed below.";
        client_config_directory: Maybe<PathText> = yaml "null", old [], like ["client_config_dir", "client_configs_directory", "conf_d"],
            "A directory with further targets: each file in it that is not hidden is one entry of `client_configs`.";
        queue_dir: PathText = yaml "/var/lib/certdeploy", old [], like ["queue", "queue_directory", "state_dir"],
            "The directory of the queue. It is made when missing, belongs to the user that runs hook and daemon, and should outlive a restart of the host (no tmpfs).";
        live_directory: PathText = yaml "/etc/letsencrypt/live", old [], like ["live", "live_dir", "letsencrypt"],
            "Where certbot keeps the current lineages. The daemon compares what is there with what each target acknowledged, at its start and every `reconcile_interval`.";
        reconcile_interval: Interval = yaml "3600", old [],
            "Seconds between two comparisons of `live_directory` with what the targets hold.";
        fail_fast: Switch = yaml "false", old [],
            "Stop with exit code 1 at the first push or renewal that fails, instead of trying again.";
        strict_modes: Switch = yaml "false", old [],
            "Refuse to run when others can write the config, a key file, `known_hosts` or `renew_exec`, or a directory above them, or can read the passphrase; the message names the command that mends it. `false` only warns. Files that were mounted into a container only warn.";
        log_level: Level = yaml "ERROR", old [],
            "The least severe messages to log: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`.";
        log_filename: Maybe<PathText> = yaml "null", old [], like ["log", "log_file", "logfile"],
            "A file that the log is appended to as well, made with mode 0600 when missing; `stdout` and `stderr` mean the streams. It is opened anew on SIGHUP.";
        log_format: LogFormatText = yaml "auto", old [],
            "`text` for lines `LEVEL:certdeploy-server: message`, `json` for one JSON object a line, `journald` for systemd's journal; `auto` is `journald` when systemd has connected the output to it, else `text`. Files are `json` or text.";
        sftp_log_level: Level = yaml "ERROR", old [],
            "As `log_level`, for the SSH and SFTP library, whose lines begin with `LEVEL:sftp: `.";
        sftp_log_filename: Maybe<PathText> = yaml "null", old [], like ["sftp_log", "sftp_log_file"],
            "A file that the log of the SSH and SFTP library is appended to as well.";
        push_mode: PushModeText = yaml "serial", old [],
            "`serial` pushes to one target after another, first in the order of `client_configs`, then whoever was visited longest ago; `parallel` to several at once.";
        push_concurrency: Positive = yaml "32", old [], like ["concurrency", "parallel", "max_pushes"],
            "The most targets that are pushed to at once when `push_mode` is `parallel`.";
        connect_concurrency: Positive = yaml "256", old [],
            "The most targets that are connected to at once, beside those that are pushed to, when `push_mode` is `parallel`: those that do not answer take no place of `push_concurrency`.";
        push_interval: Seconds = yaml "0", old [],
            "Seconds to wait after the start of a push before the next one is started.";
        push_retries: Count = yaml "1", old [], like ["retries"],
            "How often a failed push is tried again after `push_retry_interval`. After that the daemon goes on with growing pauses of up to an hour, until the target has acknowledged.";
        push_retry_interval: Seconds = yaml "30", old [], like ["retry_interval", "retry_delay"],
            "Seconds between the first attempt at a push and its retries.";
        push_retry_max_interval: Interval = yaml "3600", old [],
            "The longest pause in seconds between two attempts of the daemon at one push.";
        push_retry_forever: Switch = yaml "true", old [],
            "Whether the daemon goes on after `push_retries`, with growing pauses. If not, the delivery stays owed and is tried again at the next hook, comparison or start.";
        stop_timeout: Interval = yaml "10", old [],
            "Seconds that pushes under way may take after SIGTERM or SIGHUP; what is cut then is still owed.";
        sftp_tcp_timeout: Maybe<Limit> = yaml "10", old [],
            "Seconds that connecting to one address of a target may take; `null` waits for ever.";
        sftp_banner_timeout: Maybe<Limit> = yaml "15", old [],
            "Seconds from the connection to the end of the SSH key exchange; `null` waits for ever.";
        sftp_auth_timeout: Maybe<Limit> = yaml "15", old [],
            "Seconds that logging in may take; `null` waits for ever.";
        sftp_operation_timeout: Maybe<Limit> = yaml "30", old [],
            "Seconds that each single SFTP operation may take; `null` waits for ever.";
        push_timeout: Maybe<Limit> = yaml "120", old [], like ["timeout"],
            "Seconds that pushing one lineage to one target may take, from the connection to the receipt; `null` waits for ever.";
        join_timeout: JoinLimit = yaml "null", old [],
            "Seconds that all pushes of one visit to a target may take together; `null` sets no limit of its own.";
        renew_every: EveryText = yaml "1", old [], like ["interval", "renew_interval", "schedule"],
            "How many `renew_unit`s lie between two runs of certbot by the daemon. A day of the week (`monday`) works as well.";
        renew_unit: UnitText = yaml "day", old [],
            "`minute`, `hour`, `day`, `week`, or a day of the week. Days and weeks go by the local clock, over changes to and from summer time.";
        renew_at: Maybe<Text> = yaml "null", old [],
            "The time of a renewal: `HH:MM` or `HH:MM:SS` for days, weeks and days of the week (local time), `:MM` or `MM:SS` for hours, `:SS` for minutes. A time that the clock skips is made up right after. Without it, an interval is counted from the end of the last run.";
        renew_exec: Maybe<PathText> = yaml "null", old [], like ["certbot", "renew_command", "renew_cmd"],
            "The program that renews certificates. Default: `certbot` in `PATH`.";
        renew_args: Arguments = yaml "[renew]", old [],
            "The arguments of `renew_exec`. No shell is involved.";
        renew_timeout: Maybe<Limit> = yaml "3600", old [],
            "Seconds after which a run of `renew_exec` is ended together with everything it started; `null` waits for ever.";
        renew_on_start: OnStartText = yaml "overdue", old [],
            "Whether the daemon runs `renew_exec` when it starts: `overdue` (if a run was missed since the last one; the very first start counts as that for plain intervals, not with `renew_at` or a day of the week), `always`, or `never`.";
        renew_jitter: Seconds = yaml "0", old [],
            "Up to so many seconds, chosen at random, are waited before each scheduled run of `renew_exec`; not at a start and not with `--renew`.";
        check_renew: Maybe<Nested<CheckRenewFile>> = yaml "null", old [],
            "An old spelling of the renewal interval, understood with a warning. Use `renew_every` and `renew_unit`.";
    }
}

settings! {
    /// Keys of the old `check_renew` section.
    pub struct CheckRenewFile ("check_renew option") {
        every: EveryText = required, old [],
            "A unit (`week`), a day of the week, or a number of days.";
    }
}

settings! {
    /// Keys of one entry of `client_configs`.
    pub struct TargetFile ("client config option") {
        address: Text = required, old [], like ["host", "hostname", "ip", "server", "target", "addr"],
            "The host name or IP address of the target. All its addresses are tried, IPv6 and IPv4 in turn, each 250 ms after the one before it if that has not answered.";
        domains: Words = yaml "[]", old [], like ["names", "hostnames", "certificates"],
            "The names this target serves. It gets each lineage whose certificate carries one of them.";
        lineages: List<Text> = yaml "[]", old [], like ["lineage_names", "cert_names", "cert_name"],
            "Lineages this target gets by their names, whatever names their certificates carry. `domains`, `lineages` or both must be given.";
        pubkey: List<Text> = yaml "[]", old [], like ["host_key", "hostkey", "public_key", "pubkey_blob", "hash", "fingerprint"],
            "The target's SSH host key: `ssh-ed25519 AAAA...` or the base64 alone; a list while a host changes its key. Nothing is sent to a host that shows another key.";
        pubkey_filename: Maybe<PathText> = yaml "null", old ["pubkey_file"], like ["host_key_file", "public_key_file"],
            "A file with host keys of the target, one a line, as `ssh-keygen` or `ssh-keyscan` writes them; lines about other hosts do not count. Used when there is no `pubkey`. At most 64 KiB.";
        name: Maybe<Text> = yaml "null", old [],
            "What logs and `status` call this target. Default: `username@address:port+path`.";
        port: Port = yaml "22", old [],
            "The target's SSH port.";
        username: Text = yaml "certdeploy", old [], like ["user", "login", "remote_user"],
            "The user to log in as.";
        path: Maybe<RemotePath> = yaml "/var/cache/certdeploy", old [], like ["directory", "dir", "remote_path", "source", "staging", "destination"],
            "Where a plain SSH server or a Python certdeploy-client stages lineages; null or '' is where its SFTP session begins. Our own client needs no path.";
        needs_cert: Switch = yaml "false", old [],
            "Push `cert.pem`. Our own client makes it out of `fullchain.pem` anyway.";
        needs_chain: Switch = yaml "false", old [],
            "Push `chain.pem`.";
        needs_fullchain: Switch = yaml "true", old [],
            "Push `fullchain.pem`.";
        needs_privkey: Switch = yaml "true", old [],
            "Push `privkey.pem`.";
        push_retries: Maybe<Count> = yaml "null", old [],
            "As the server's `push_retries`, for this target.";
        push_retry_interval: Maybe<Seconds> = yaml "null", old [],
            "As the server's `push_retry_interval`, for this target.";
        sftp_tcp_timeout: Given<Maybe<Limit>> = unset, old [],
            "As the server's `sftp_tcp_timeout`, for this target.";
        sftp_banner_timeout: Given<Maybe<Limit>> = unset, old [],
            "As the server's `sftp_banner_timeout`, for this target.";
        sftp_auth_timeout: Given<Maybe<Limit>> = unset, old [],
            "As the server's `sftp_auth_timeout`, for this target.";
        sftp_operation_timeout: Given<Maybe<Limit>> = unset, old [],
            "As the server's `sftp_operation_timeout`, for this target.";
        push_timeout: Given<Maybe<Limit>> = unset, old [],
            "As the server's `push_timeout`, for this target.";
        join_timeout: Given<JoinLimit> = unset, old [],
            "As the server's `join_timeout`, for this target.";
    }
}

//! Images that stand in for those that our compose file and our stack take from a registry: a web server that says when it
//! is to read its certificates anew, and a proxy that lets through what the example asks its proxy for.

use std::path::Path;

use crate::images::Host;

/// The proxy's name in `docker/compose.yml`.
pub const PROXY: &str = "tecnativa/docker-socket-proxy";
/// The web server's name there and in `docker/stack-web.yml`.
pub const WEB: &str = "nginx";

/// What CONTAINERS=1 and ALLOW_RESTARTS=1 let through.
const HAPROXY: &str = "\
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend docker
  bind :2375
  acl reading method GET HEAD
  acl version path -m reg ^(/v[0-9.]+)?/(_ping|version)$
  acl containers path -m reg ^(/v[0-9.]+)?/containers
  acl restarts path -m reg ^(/v[0-9.]+)?/containers/[a-zA-Z0-9_.-]+/(stop|restart|kill)$
  http-request deny unless version or restarts or containers reading
  default_backend engine
backend engine
  server engine unix@/var/run/docker.sock
";

/// Builds an image that says `reloaded` at each HUP; `folder` is made.
///
/// # Panics
/// It fails.
pub fn web(host: &Host, folder: &Path) {
    let text = "FROM debian:bookworm-slim\n\
        CMD [\"sh\", \"-c\", \"trap 'echo reloaded' HUP; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done\"]\n";
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("Dockerfile"), text).expect("write");
    host.build(folder, WEB, &[]);
}

/// Builds the proxy; `folder` is made.
///
/// # Panics
/// It fails.
pub fn proxy(host: &Host, folder: &Path) {
    let text = "FROM debian:bookworm-slim\n\
        RUN apt-get update && apt-get install -y --no-install-recommends haproxy\n\
        COPY haproxy.cfg /\nCMD [\"haproxy\", \"-W\", \"-db\", \"-f\", \"/haproxy.cfg\"]\n";
    std::fs::create_dir_all(folder).expect("a folder");
    std::fs::write(folder.join("haproxy.cfg"), HAPROXY).expect("write");
    std::fs::write(folder.join("Dockerfile"), text).expect("write");
    host.build(folder, PROXY, &[]);
}

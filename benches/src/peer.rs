//! The programs that the relay is measured beside, and the load generator: `nginx` and `wrk` from the distribution.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Running, wait_for_port};
use crate::tls::Leaf;

/// nginx as the backend: reads the body, answers a fixed small JSON.
pub fn nginx_backend(dir: &Path, cpu: usize, port: u16) -> Running {
    let sink = r#"location / { default_type application/json; return 200 '{"ok":true,"id":"ord_8d1f0c52"}'; }"#;
    nginx(dir, "backend", cpu, &port.to_string(), sink, "", port)
}

/// nginx as a pass-through proxy with keepalive to the backend, on one worker.
pub fn nginx_proxy(dir: &Path, cpu: usize, port: u16, backend: u16) -> Running {
    let upstream = format!("upstream sink {{ server 127.0.0.1:{backend}; keepalive 64; }}");
    let location = "location / { proxy_pass http://sink; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                    proxy_set_header Host $host; client_body_buffer_size 256k; }";
    nginx(dir, "proxy", cpu, &port.to_string(), location, &upstream, port)
}

/// nginx that ends TLS and passes through to the backend, on one worker.
pub fn nginx_tls_proxy(dir: &Path, cpu: usize, port: u16, backend: u16, leaf: &Leaf) -> Running {
    let upstream = format!("upstream sink {{ server 127.0.0.1:{backend}; keepalive 64; }}");
    let location = format!(
        "{} location / {{ proxy_pass http://sink; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $host; client_body_buffer_size 256k; }}",
        ends_tls(leaf)
    );
    nginx(dir, "tls-proxy", cpu, &format!("{port} ssl"), &location, &upstream, port)
}

/// nginx as a backend that speaks TLS.
pub fn nginx_tls_backend(dir: &Path, cpu: usize, port: u16, leaf: &Leaf) -> Running {
    let sink =
        format!("{} location / {{ default_type application/json; return 200 '{{\"ok\":true}}'; }}", ends_tls(leaf));
    nginx(dir, "tls-backend", cpu, &format!("{port} ssl"), &sink, "", port)
}

/// As the relay has it: both versions, no stateful sessions.
fn ends_tls(leaf: &Leaf) -> String {
    let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
    format!(
        "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off;"
    )
}

fn nginx(
    dir: &Path,
    name: &'static str,
    cpu: usize,
    listen: &str,
    location: &str,
    upstream: &str,
    port: u16,
) -> Running {
    let root = dir.join(name);
    std::fs::create_dir_all(&root).expect("temporary folder");
    let root_text = root.display();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {root_text}/pid; error_log {root_text}/error.log crit;\n\
         events {{ worker_connections 16384; }}\n\
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 64m;\n\
         client_body_temp_path {root_text}/body; proxy_temp_path {root_text}/proxy; fastcgi_temp_path {root_text}/f;\n\
         uwsgi_temp_path {root_text}/u; scgi_temp_path {root_text}/s;\n\
         {upstream}\n server {{ listen 127.0.0.1:{listen}; {location} }} }}\n"
    );
    let file = root.join("nginx.conf");
    std::fs::write(&file, config).expect("configuration of nginx");
    let file = file.display().to_string();
    let running = Running::start(name, cpu, "nginx", &["-c", &file, "-p", &root_text.to_string()]);
    wait_for_port(port);
    running
}

/// One round of load.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    /// Requests answered.
    pub requests: u64,
    /// Requests per second.
    pub rate: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Answers that were not 2xx, or broken connections.
    pub errors: u64,
}

/// The script that makes wrk send a POST with this body, and print what we read.
#[must_use]
pub fn wrk_script(dir: &Path, host: &str, path: &str, body: &[u8]) -> PathBuf {
    let text = std::str::from_utf8(body).expect("the document is text");
    let file = dir.join(format!("load-{}-{}.lua", path.replace('/', "_"), body.len()));
    let script = format!(
        "wrk.method='POST'\nwrk.path='{path}'\nwrk.headers['Host']='{host}'\nwrk.headers['Content-Type']='application/json'\n\
         wrk.body=[==[{text}]==]\n\
         done=function(s,l,r) io.write(string.format('RESULT %d %f %f %f %d\\n', s.requests, s.duration/1e6, \
         l:percentile(50), l:percentile(99), s.errors.status+s.errors.connect+s.errors.read+s.errors.write+s.errors.timeout)) end\n"
    );
    std::fs::write(&file, script).expect("script of the load");
    file
}

/// Runs wrk once.
#[must_use]
pub fn load(cpu: usize, port: u16, connections: usize, seconds: u64, script: &Path) -> Round {
    let out = Command::new("taskset")
        .args(["-c", &cpu.to_string(), "wrk", "-t1", "-c", &connections.to_string(), "-d", &format!("{seconds}s")])
        .args(["-s", &script.display().to_string(), &format!("http://127.0.0.1:{port}")])
        .output()
        .expect("wrk runs");
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text.lines().find_map(|l| l.strip_prefix("RESULT ")).unwrap_or_else(|| panic!("wrk said: {text}"));
    let n: Vec<f64> = line.split(' ').filter_map(|f| f.parse().ok()).collect();
    let [requests, duration, p50_us, p99_us, errors] = n[..] else { panic!("wrk said: {text}") };
    Round { requests: requests as u64, rate: requests / duration, p50_us, p99_us, errors: errors as u64 }
}

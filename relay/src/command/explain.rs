//! `relay explain`: which rules a request meets, and why it does not meet the others.

use std::process::ExitCode;

use http::{HeaderName, HeaderValue, Request, Uri};

use super::admission::{self, Written};
use super::{BAD_INPUT, rules, serve};
use crate::answer;
use crate::args::Explain;
use crate::config::resolved::{Connect, Side, Site};
use crate::error::Failure;
use crate::rules::action::{Action, Verb};
use crate::rules::path::NormalPath;
use crate::rules::route::{Rule, Unmet};

/// Explains a request.
#[must_use]
pub fn run(args: &Explain) -> ExitCode {
    let config = match rules(&args.rules.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let (uri, request) = match request(args) {
        Ok(request) => request,
        Err(cause) => {
            eprintln!("relay explain: {cause}");
            return ExitCode::from(BAD_INPUT);
        }
    };
    let (mut head, ()) = request.into_parts();
    let host = uri.host().unwrap_or_default();
    let served = serve(&config, args.side, host, uri.path());
    let limits = served.as_ref().map(|s| (s.listener.limits.head_fields, s.listener.limits.head_bytes));
    if let Err(failure) = admission::framing(&written(args, &uri), &mut head, limits) {
        return refused(&failure);
    }
    let Some(served) = served else {
        println!("no listener serves the host {host}: 421");
        let hosts: Vec<_> = config
            .inbound
            .iter()
            .chain(&config.outbound)
            .flat_map(|l| l.sites.sites())
            .flat_map(|s| s.hosts.iter().cloned())
            .collect();
        println!("served: {}", hosts.join(", "));
        return ExitCode::FAILURE;
    };
    println!("site      {} at {}", served.site.name, served.listener.listen);
    println!("path      {}", served.path);
    if served.listener.side == Side::Outbound {
        println!("connect   {}", connect(served.site));
    }
    if let Err(failure) = admission::site(&head, served.site) {
        return refused(&failure);
    }
    if served.site.redirect {
        println!("verdict   is sent on to https");
        return ExitCode::SUCCESS;
    }
    let path = match NormalPath::read(&served.path) {
        Ok(path) => path,
        Err(fault) => return refused(&Failure::Path(fault)),
    };
    for (n, rule) in served.site.rules().iter().enumerate() {
        let unmet = rule.condition.unmet(&head, &path);
        if unmet.is_empty() {
            println!("rule {:<4} met{}", n + 1, named(rule));
            actions("request", &rule.request);
            actions("response", &rule.response);
        } else {
            println!("rule {:<4} not met{}", n + 1, named(rule));
            for unmet in unmet {
                println!("          {}", why(rule, unmet, &head.method, &served.path));
            }
        }
    }
    match served.site.rules.route(&head, &served.path).and_then(|(route, body)| {
        admission::protocol(&head, &route)?;
        Ok((route, body))
    }) {
        Ok((route, _)) if route.is_ruled() => println!("verdict   ruled"),
        Ok(_) => println!("verdict   unruled: passes untouched"),
        Err(failure) => return refused(&failure),
    }
    ExitCode::SUCCESS
}

/// What becomes of CONNECT for a site.
fn connect(site: &Site) -> String {
    let ports: Vec<_> = site.ports.iter().map(ToString::to_string).collect();
    match site.connect {
        Connect::Refuse => "refused: neither `intercept` nor `tunnel`".to_owned(),
        Connect::Intercept => format!("TLS ends here, these rules hold inside; port {}", ports.join(", ")),
        Connect::Tunnel => format!("bytes pass unread, whatever the rules say; port {}", ports.join(", ")),
    }
}

fn refused(failure: &Failure) -> ExitCode {
    if let Some(cause) = answer::cause_of(failure) {
        println!("verdict   refused: {} {} — {}", cause.status.as_u16(), cause.code, cause.title);
    }
    ExitCode::FAILURE
}

fn request(args: &Explain) -> Result<(Uri, Request<()>), String> {
    let uri: Uri = args.url.parse().map_err(|_| format!("`{}` is no URL", args.url))?;
    if uri.host().is_none() {
        return Err("the URL names the host: http://api.shop.example/v1/orders".to_owned());
    }
    let mut request = Request::new(());
    *request.method_mut() = args.method.parse().map_err(|_| format!("`{}` is no method", args.method))?;
    for header in &args.headers {
        let (name, value) = header.split_once(':').ok_or(format!("`{header}` is no header: Name: value"))?;
        let name: HeaderName = name.trim().parse().map_err(|_| format!("`{name}` is no header name"))?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| format!("the value of {name} is malformed"))?;
        request.headers_mut().append(name, value);
    }
    *request.uri_mut() = uri.clone();
    Ok((uri, request))
}

/// The request as the framing gate would get it.
fn written(args: &Explain, uri: &Uri) -> Written {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut text = format!("{} {path} HTTP/1.1\r\n", args.method);
    let names_host = args.headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
    if let Some(host) = uri.authority().filter(|_| !names_host) {
        text.push_str(&format!("Host: {host}\r\n"));
    }
    for header in &args.headers {
        text.push_str(&format!("{header}\r\n"));
    }
    text.push_str("\r\n");
    Written { text: text.into_bytes(), is_http2: false }
}

fn named(rule: &Rule) -> String {
    if rule.name.parse::<usize>().is_ok() { String::new() } else { format!(" ({})", rule.name) }
}

fn why(rule: &Rule, unmet: Unmet, method: &http::Method, path: &str) -> String {
    let condition = &rule.condition;
    match unmet {
        Unmet::Method => {
            let methods: Vec<_> = condition.methods.iter().map(http::Method::as_str).collect();
            format!("the method is {method}, not {}", methods.join(" or "))
        }
        Unmet::Path => {
            let globs: Vec<_> = condition.paths.iter().map(|g| g.source()).collect();
            format!("the path {path} does not match {}", globs.join(" or "))
        }
        Unmet::Header(at) => match condition.headers.get(at) {
            Some(header) => match &header.value {
                Some(glob) => format!("the header {} is not `{glob}`", header.name),
                None => format!("the header {} is absent", header.name),
            },
            None => "a header differs".to_owned(),
        },
    }
}

fn actions(side: &str, actions: &[Action]) {
    for action in actions {
        match &action.verb {
            Verb::Seal { role, .. } => println!("          {side}: seal {} as {role}", action.source),
            Verb::Open { roles, .. } => {
                let roles: Vec<_> = roles.iter().map(ToString::to_string).collect();
                println!("          {side}: open {} ({})", action.source, roles.join(", "));
            }
        }
    }
}

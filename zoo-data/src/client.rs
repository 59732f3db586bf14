//! The HTTP client of downloads: through the proxies that the environment names, trusting the
//! certificates that the system trusts.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use base64::{prelude::BASE64_STANDARD, Engine};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};
use ureq::{Agent, Proxy};

/// A client for an address: `http_proxy` or `https_proxy`, else `all_proxy`, is used unless
/// `no_proxy` names its host; certificates are checked against `SSL_CERT_FILE` and `SSL_CERT_DIR`,
/// else the system's store, else Mozilla's list as it was when this program was built.
///
/// # Errors
/// A sentence: the address or what the environment says is malformed.
pub fn agent(address: &str, connect_timeout: Duration) -> Result<Agent, String> {
    let uri: Uri = address.parse().map_err(|e| format!("is not a valid URL ({e})"))?;
    let config = |proxy, roots| {
        let tls = TlsConfig::builder().root_certs(roots).build();
        let config = Agent::config_builder().timeout_connect(Some(connect_timeout)).tls_config(tls);
        config.max_idle_connections(0).proxy(proxy).build()
    };
    let (proxy, roots) = (proxy(&uri)?, roots()?);
    let connector = ProxyConnector { inner: DefaultConnector::new(), direct: config(None, roots.clone()) };
    Ok(Agent::with_parts(config(proxy, roots), connector, DefaultResolver::default()))
}

/// The first of these environment variables that is set and not empty, in lower or upper case.
fn variable(names: &[&str]) -> Option<(String, String)> {
    let cases = names.iter().flat_map(|name| [(*name).to_owned(), name.to_uppercase()]);
    cases.filter_map(|name| env::var(&name).ok().map(|value| (name, value))).find(|(_, value)| !value.is_empty())
}

fn proxy(uri: &Uri) -> Result<Option<Proxy>, String> {
    let own = if uri.scheme_str() == Some("https") { "https_proxy" } else { "http_proxy" };
    let Some((name, value)) = variable(&[own, "all_proxy"]) else { return Ok(None) };
    if variable(&["no_proxy"]).is_some_and(|(_, list)| is_listed(uri.host().unwrap_or_default(), &list)) {
        return Ok(None);
    }
    // The value may hold a password.
    Proxy::new(&value).map(Some).map_err(|_| format!("the environment variable {name} is not a valid proxy URL"))
}

/// Whether `no_proxy` names a host, or a domain that it is in.
fn is_listed(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.').to_ascii_lowercase();
        entry == "*" || host.strip_suffix(&domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn roots() -> Result<RootCerts, String> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        let certificates = found.certs.iter().map(|der| Certificate::from_der(der).to_owned());
        return Ok(RootCerts::Specific(Arc::new(certificates.collect())));
    }
    match (variable(&["ssl_cert_file", "ssl_cert_dir"]), found.errors.first()) {
        (Some((name, _)), Some(error)) => Err(format!("{name} contains no usable certificates: {error}")),
        _ => Ok(RootCerts::WebPki),
    }
}

/// Connects to a proxy for plain http, which is asked for absolute addresses: proxies refuse
/// CONNECT to port 80, which is ureq's way. Everything else is ureq's.
#[derive(Debug)]
struct ProxyConnector {
    inner: DefaultConnector,
    /// The configuration without the proxy.
    direct: Config,
}

impl Connector for ProxyConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(proxy) = details.config.proxy().filter(|p| !details.needs_tls() && is_http(p)) else {
            return self.inner.connect(details, chained);
        };
        let to_proxy = ConnectionDetails {
            uri: proxy.uri(),
            addrs: details.resolver.resolve(proxy.uri(), &self.direct, details.timeout)?,
            config: &self.direct,
            request_level: details.request_level,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        let Some(inner) = self.inner.connect(&to_proxy, chained)? else { return Ok(None) };
        let origin = format!("http://{}", details.uri.authority().map_or("", |authority| authority.as_str()));
        let credentials = (proxy.username().is_some() || proxy.password().is_some()).then(|| {
            let pair = format!("{}:{}", proxy.username().unwrap_or_default(), proxy.password().unwrap_or_default());
            format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair))
        });
        Ok(Some(Box::new(AbsoluteForm { inner, insert: Some((origin, credentials.unwrap_or_default())) })))
    }
}

fn is_http(proxy: &Proxy) -> bool {
    matches!(proxy.protocol(), ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https)
}

/// Makes the path in a connection's only request an absolute address.
#[derive(Debug)]
struct AbsoluteForm {
    inner: Box<dyn Transport>,
    /// What goes before the path, and the header lines after the first line.
    insert: Option<(String, String)>,
}

impl Transport for AbsoluteForm {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let Some((origin, headers)) = self.insert.take() else { return self.inner.transmit_output(amount, timeout) };
        let output = self.inner.buffers().output();
        let request = output[..amount].to_vec();
        let path = "GET ".len();
        let line = request.windows(2).position(|pair| pair == b"\r\n").map_or(amount, |at| at + 2);
        let request =
            [&request[..path], origin.as_bytes(), &request[path..line], headers.as_bytes(), &request[line..]].concat();
        let too_long = || ureq::Error::BadUri("it is too long for a proxy".into());
        output.get_mut(..request.len()).ok_or_else(too_long)?.copy_from_slice(&request);
        self.inner.transmit_output(request.len(), timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_hosts_and_domains() {
        for list in ["a.org", "x, a.org", ".org", "*.org", "*", "A.ORG", "x a.org", ".sub.a.org", "sub.a.org,x"] {
            assert!(is_listed("sub.a.org", list), "{list}");
        }
        assert!(is_listed("a.org", "a.org") && is_listed("127.0.0.1", "x,127.0.0.1"));
        for list in ["", ",", "b.org", "sub.a.org", "rg"] {
            assert!(!is_listed("a.org", list), "{list}");
        }
    }
}

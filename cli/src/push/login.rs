//! The login for a registry, from where docker keeps it. No message here has a secret in it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

/// Docker's own hub is known to its configuration and its helpers by this name alone.
const HUB: (&str, &str) = ("index.docker.io", "https://index.docker.io/v1/");

/// Who pushes.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) auth: RegistryAuth,
    /// For messages: who, and who says so.
    pub(super) who: String,
}

impl Login {
    /// Looks for a registry's login in docker's configuration.
    pub(super) fn find(registry: &str) -> anyhow::Result<Login> {
        let Some(file) = config_file() else {
            return Ok(Login::anonymous("no login, since there is no home folder".to_owned()));
        };
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Login::anonymous(format!("no login, since there is no {}", file.display())));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        // What serde says of mere JSON quotes nothing of it.
        let config: Value = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        Login::from_config(registry, &config, &file)
    }

    fn from_config(registry: &str, config: &Value, file: &Path) -> anyhow::Result<Login> {
        let own_helper = entry(config.get("credHelpers"), registry).and_then(Value::as_str);
        let helper = own_helper.or_else(|| config.get("credsStore").and_then(Value::as_str));
        if let Some(helper) = helper.filter(|helper| !helper.is_empty())
            && let Some(login) = ask(helper, registry)?
        {
            return Ok(login);
        }
        let Some(stored) = entry(config.get("auths"), registry) else {
            return Ok(Login::anonymous(format!("no login, since {} has none", file.display())));
        };
        let field = |name: &str| stored.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = field("registrytoken") {
            let who = format!("the token in {}", file.display());
            return Ok(Login { auth: RegistryAuth::Bearer(token.to_owned()), who });
        }
        ensure!(
            field("identitytoken").is_none(),
            "{} has an identity token for {registry}, which cannot be used here: log in with a password or access token",
            file.display()
        );
        let (user, password) = match (field("auth"), field("username"), field("password")) {
            (Some(auth), _, _) => decode(auth).with_context(|| {
                format!("in {}, \"auth\" of {registry} is not base64 of user:password", file.display())
            })?,
            (None, Some(user), Some(password)) => (user.to_owned(), password.to_owned()),
            _ => return Ok(Login::anonymous(format!("no login, since {} has none", file.display()))),
        };
        let who = format!("the login of {user:?} in {}", file.display());
        Ok(Login { auth: RegistryAuth::Basic(user, password), who })
    }

    fn anonymous(who: String) -> Login {
        Login { auth: RegistryAuth::Anonymous, who }
    }
}

fn config_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// What a table has for a registry. Its keys may be URLs.
fn entry<'a>(table: Option<&'a Value>, registry: &str) -> Option<&'a Value> {
    let host = |key: &str| {
        let key = key.split_once("://").map_or(key, |(_, rest)| rest);
        key.split('/').next().unwrap_or_default().to_owned()
    };
    let table = table?.as_object()?;
    table.get(registry).or_else(|| table.iter().find(|(key, _)| host(key) == registry).map(|(_, value)| value))
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    // Docker pads some of them with NULs.
    let (user, password) = text.trim_end_matches('\0').split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Asks a credential helper. None if it knows nothing of the registry.
fn ask(helper: &str, registry: &str) -> anyhow::Result<Option<Login>> {
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("docker's configuration names {program}, which cannot be run"))?;
    let (hub, hub_url) = HUB;
    if let Some(mut input) = child.stdin.take() {
        // A helper that ends without reading says so by its status.
        let _ = writeln!(input, "{}", if registry == hub { hub_url } else { registry });
    }
    let output = child.wait_with_output().with_context(|| format!("{program} cannot be read"))?;
    if !output.status.success() {
        // The protocol has helpers say why on standard output.
        let why = String::from_utf8_lossy(&output.stdout);
        if why.contains("credentials not found") {
            return Ok(None);
        }
        bail!("{program} has no login for {registry}: {}, {}", output.status, why.trim());
    }
    let answer: Value =
        serde_json::from_slice(&output.stdout).ok().with_context(|| format!("{program} answered no JSON"))?;
    let field = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    let (Some(user), Some(secret)) = (field("Username"), field("Secret")) else {
        bail!("{program} answered without Username or Secret");
    };
    ensure!(
        user != "<token>",
        "{program} has an identity token for {registry}, which cannot be used here: log in with a password or access token"
    );
    let who = format!("the login of {user:?} from {program}");
    Ok(Some(Login { auth: RegistryAuth::Basic(user, secret), who }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use oci_client::secrets::RegistryAuth;
    use serde_json::json;

    use super::Login;

    #[test]
    fn docker_writes_logins_in_many_ways() {
        let find = |config: &serde_json::Value| Login::from_config("a.example:5000", config, Path::new("config.json"));
        let basic = RegistryAuth::Basic("ann".to_owned(), "pa55:word".to_owned());
        for entry in [
            json!({"a.example:5000": {"auth": "YW5uOnBhNTU6d29yZA=="}}),
            json!({"https://a.example:5000/v2/": {"auth": "YW5uOnBhNTU6d29yZA=="}, "a.example": {"auth": "?"}}),
            json!({"a.example:5000": {"username": "ann", "password": "pa55:word"}}),
        ] {
            assert_eq!(find(&json!({"auths": entry})).expect("a login").auth, basic, "{entry}");
        }
        for config in [json!({}), json!({"auths": {"b.example": {}}}), json!({"auths": {"a.example:5000": {}}})] {
            assert_eq!(find(&config).expect("no login").auth, RegistryAuth::Anonymous, "{config}");
        }
        let error = find(&json!({"auths": {"a.example:5000": {"auth": "c2VjcmV0"}}})).expect_err("no colon");
        assert!(format!("{error:#}").contains("is not base64 of user:password"), "{error:#}");
        let error = find(&json!({"auths": {"a.example:5000": {"identitytoken": "s3cret"}}})).expect_err("a token");
        assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
        let error = find(&json!({"credsStore": "of-nobody"})).expect_err("no such program");
        assert!(format!("{error:#}").contains("docker-credential-of-nobody"), "{error:#}");
    }
}

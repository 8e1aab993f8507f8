//! Returns environment variables of the agent, and the environment of a command that the agent runs.
//!
//! The agent does not pass its whole environment to a command. The agent's environment may contain secrets, such as
//! tokens and CREDENTIALS_DIRECTORY. The variables NOTIFY_SOCKET and LISTEN_FDS are meant only for the agent itself.

use std::{collections::BTreeMap, io};

use super::account::Account;

/// The PATH of commands that do not run as the agent's user, and of all commands if the agent has no PATH.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment variables for language and time zone. Every command gets the agent's values of these variables.
const LOCALE: [&str; 15] = [
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_ADDRESS",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_IDENTIFICATION",
    "LC_MEASUREMENT",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NAME",
    "LC_NUMERIC",
    "LC_PAPER",
    "LC_TIME",
    "TZ",
];

/// The environment variables that contain proxy URLs. Commands of other users do not get the proxy variables, because a
/// proxy URL may contain a password.
const PROXIES: [&str; 10] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Returns an environment variable of the agent.
#[expect(clippy::disallowed_methods, reason = "this is the port")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the environment of a command: the variables of the command's account, and the variables in `own`. A variable
/// in `own` replaces the account's variable of the same name.
///
/// `other` is the account of the command; `None` if the command runs as the agent's user.
pub(super) fn of_command(
    own: &BTreeMap<String, String>,
    other: Option<&Account>,
) -> io::Result<BTreeMap<String, String>> {
    build(own, other, &Account::own()?, environment)
}

fn build(
    own: &BTreeMap<String, String>,
    other: Option<&Account>,
    agent: &Account,
    of_agent: impl Fn(&str) -> Option<String>,
) -> io::Result<BTreeMap<String, String>> {
    let account = other.unwrap_or(agent);
    let mut env = BTreeMap::new();
    let passed = LOCALE.iter().chain(PROXIES.iter().filter(|_| other.is_none()));
    env.extend(passed.filter_map(|name| Some(((*name).to_owned(), of_agent(name)?))));
    let path = of_agent("PATH").filter(|path| other.is_none() && !path.is_empty());
    env.insert("PATH".into(), path.unwrap_or_else(|| SEARCH_PATH.into()));
    env.insert("HOME".into(), account.home.display().to_string());
    env.insert("SHELL".into(), account.shell.display().to_string());
    env.insert("USER".into(), account.name.clone());
    env.insert("LOGNAME".into(), account.name.clone());
    env.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(env)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn account(name: &str) -> Account {
        let home = PathBuf::from(format!("/home/{name}"));
        Account { uid: 7, gid: 7, groups: vec![7], name: name.into(), home, shell: "/bin/zsh".into() }
    }

    fn of_agent(name: &str) -> Option<String> {
        let held = [
            ("PATH", "/opt/bin"),
            ("HOME", "/of-the-agent"),
            ("LANG", "de_DE.UTF-8"),
            ("TZ", "Asia/Kathmandu"),
            ("https_proxy", "http://me:word@proxy"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials"),
            ("VAULT_TOKEN", "t"),
            ("RUST_LOG", "debug"),
            ("LD_PRELOAD", "/x.so"),
        ];
        held.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn command_of_a_user_gets_that_users_environment_and_nothing_of_the_agents() {
        let own = [("EXTRA".to_owned(), "1".to_owned())].into();
        let env = build(&own, Some(&account("ada")), &account("root"), of_agent).unwrap();
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        assert_eq!(names, ["EXTRA", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TZ", "USER"]);
        assert_eq!((env["HOME"].as_str(), env["USER"].as_str(), env["LOGNAME"].as_str()), ("/home/ada", "ada", "ada"));
        assert_eq!((env["PATH"].as_str(), env["SHELL"].as_str()), (SEARCH_PATH, "/bin/zsh"));
    }

    #[test]
    fn command_without_a_user_keeps_search_path_and_proxies_but_no_credentials() {
        let env = build(&BTreeMap::new(), None, &account("root"), of_agent).unwrap();
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TZ", "USER", "https_proxy"]);
        assert_eq!((env["PATH"].as_str(), env["HOME"].as_str()), ("/opt/bin", "/home/root"));
    }

    #[test]
    fn own_variables_of_a_command_win() {
        let own = [("HOME".to_owned(), "/srv".to_owned())].into();
        assert_eq!(build(&own, Some(&account("ada")), &account("root"), of_agent).unwrap()["HOME"], "/srv");
    }
}

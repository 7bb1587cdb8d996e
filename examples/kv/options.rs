//! What stands on the command line.

use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) const USAGE: &str = "\
usage: kv --id N --members N=ADDR,... --redis ADDR (--data DIR | --memory) [--listen ADDR]
          [--tls-cert FILE --tls-key FILE --tls-ca FILE] [--max-clients N]

One node of a replicated key-value server that Redis clients talk to.

  --id N           this node
  --members LIST   all nodes with their addresses: 1=host:port,2=host:port,3=host:port; the same
                   list on all of them, and at every start
  --redis ADDR     where clients connect
  --data DIR       keep the data there
  --memory         keep nothing: a node that is restarted has forgotten what it promised
  --listen ADDR    where the other nodes connect, if not at this node's entry of --members
  --tls-cert FILE  the node's certificate, for `node-ID.kv`; with it, nodes speak TLS among each other
  --tls-key FILE   the certificate's key
  --tls-ca FILE    the authority whose certificates it accepts
  --max-clients N  as many clients at once (1000)

RUST_LOG=info shows what the node does.";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) id: u64,
    pub(crate) members: BTreeMap<u64, String>,
    pub(crate) redis: String,
    /// Nowhere but in memory, if there is none.
    pub(crate) data: Option<PathBuf>,
    pub(crate) listen: String,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) max_clients: usize,
}

/// Files in the PEM format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: PathBuf,
}

impl Options {
    /// # Errors
    /// What is wrong with the arguments.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut id, mut members, mut redis, mut listen) = (None, None, None, None);
        let (mut data, mut memory, mut max_clients) = (None, false, 1000);
        let (mut certificate, mut key, mut authority) = (None, None, None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--id" => id = Some(number(&arg, &value()?)?),
                "--members" => members = Some(member_list(&value()?)?),
                "--redis" => redis = Some(value()?),
                "--data" => data = Some(PathBuf::from(value()?)),
                "--tls-cert" => certificate = Some(PathBuf::from(value()?)),
                "--tls-key" => key = Some(PathBuf::from(value()?)),
                "--tls-ca" => authority = Some(PathBuf::from(value()?)),
                "--memory" => memory = true,
                "--listen" => listen = Some(value()?),
                "--max-clients" => max_clients = number(&arg, &value()?)?,
                _ => return Err(format!("unknown argument {arg}")),
            }
        }
        let id: u64 = id.ok_or("--id is missing")?;
        let members: BTreeMap<u64, String> = members.ok_or("--members is missing")?;
        let own = members.get(&id).ok_or_else(|| format!("node {id} is not among --members"))?;
        if data.is_some() == memory {
            return Err("either --data or --memory".into());
        }
        let tls = match (certificate, key, authority) {
            (Some(certificate), Some(key), Some(authority)) => {
                Some(TlsFiles { certificate, key, authority })
            }
            (None, None, None) => None,
            _ => return Err("--tls-cert, --tls-key and --tls-ca belong together".into()),
        };
        Ok(Self {
            id,
            listen: listen.unwrap_or_else(|| own.clone()),
            members,
            redis: redis.ok_or("--redis is missing")?,
            data,
            tls,
            max_clients,
        })
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} {text}: not a number"))
}

fn member_list(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let mut members = BTreeMap::new();
    for member in text.split(',') {
        let (id, address) =
            member.split_once('=').ok_or_else(|| format!("--members {member}: not N=ADDR"))?;
        let id = number("--members", id)?;
        if members.insert(id, address.to_owned()).is_some() {
            return Err(format!("--members: node {id} is there twice"));
        }
    }
    Ok(members)
}

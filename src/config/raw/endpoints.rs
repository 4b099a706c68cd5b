//! Where a pool's endpoints come from.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Where a pool's endpoints come from: exactly one of the three.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Endpoints {
    /// Hosts that are in the Envoy cluster; 1 to 1024, each once. Each is an address as `ip:port` or `[ipv6]:port`, or an object with its labels.
    #[serde(rename = "static")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<StaticEndpoint>>"))]
    pub static_: Option<Vec<Option<StaticEndpoint>>>,
    /// The hosts that Envoy itself has in the pool's cluster, whatever put them there.
    pub envoy_admin: Option<EnvoyAdmin>,
    /// The pods that the Kubernetes API lists.
    pub kubernetes: Option<Kubernetes>,
}

/// An endpoint: its address, or its address and labels.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum StaticEndpoint {
    /// `ip:port` or `[ipv6]:port`.
    Address(String),
    /// An endpoint with labels.
    Labelled(LabelledEndpoint),
}

/// An endpoint with labels, by which filters and scorers tell endpoints of a pool apart, or with a metrics page elsewhere.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LabelledEndpoint {
    /// `ip:port` or `[ipv6]:port`. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub address: Option<String>,
    /// Names and values, as on a Kubernetes pod. `llm-d.ai/context-length-range` is `MIN-MAX` in tokens, `llm-d.ai/engine-type` the name of
    /// an engine.
    pub labels: BTreeMap<String, String>,
    /// The port of its metrics page. The default is the pool's `metricsPort`, or its own port.
    pub metrics_port: Option<u64>,
}

/// The hosts of the pool's cluster, as Envoy's admin interface lists them.
///
/// A host that Envoy's control plane or its health checks call unhealthy is left out. At most 1024 hosts are taken.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct EnvoyAdmin {
    /// The Envoy cluster that leads to the admin interface; best its Unix socket. The default is `envoy-admin`.
    pub cluster: Option<String>,
    /// The time between two looks, from `500ms` to `1m`. The default is `2s`; a look at a thousand hosts takes Envoy's main thread some milliseconds.
    pub interval: Option<String>,
}

/// The pods of a namespace that an InferencePool or a selector names: ready ones, each with each of its ports.
///
/// The pods are listed and watched, so that a change is known within a second. A pod counts by its condition Ready, and by its IPv4 address where it has one. While the API cannot be reached, what was last known
/// holds. A pod's annotation `llm-d.ai/active-ports`, or `inference.networking.k8s.io/active-ports`, limits its ports. Its label `llm-d.ai/engine-type`, or
/// `inference.networking.k8s.io/engine-type`, takes the place of the pool's `engine`, where it names an engine that is known and the pool has no mapping of
/// its own. Filters and scorers see its labels. At most 1024 endpoints are taken.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Kubernetes {
    /// The Envoy cluster that leads to the Kubernetes API and adds the service account's token. The default is `kube-apiserver`.
    pub cluster: Option<String>,
    /// The namespace of the pods. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub namespace: Option<String>,
    /// The InferencePool (`inference.networking.k8s.io/v1`, or `inference.networking.x-k8s.io/v1alpha2` where there is none) whose selector and target ports count; not together with `selector`.
    pub inference_pool: Option<String>,
    /// Labels that the pods have; at least one.
    pub selector: Option<BTreeMap<String, String>>,
    /// The ports, 1 to 8, from 1 to 65535; with `selector`.
    pub target_ports: Option<Vec<u64>>,
}

/// The Inference Extension's resources about models in a namespace: InferenceModel, InferenceModelRewrite and InferenceObjective
/// (`inference.networking.x-k8s.io/v1alpha2`, and the last two of `llm-d.ai/v1alpha2`, which count first). What they say is added to `models`, `modelRewrites` and `objectives`; a resource is about the pool whose
/// InferencePool it names, or the pool with that name. One that cannot be used is left out, and Envoy's log says why.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KubernetesResources {
    /// The Envoy cluster that leads to the Kubernetes API and adds the service account's token. The default is `kube-apiserver`.
    pub cluster: Option<String>,
    /// The namespace of the resources. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub namespace: Option<String>,
}

/// A string is an address, an object an endpoint with labels.
impl<'de> Deserialize<'de> for StaticEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StaticEndpoint, D::Error> {
        struct AddressOrObject;

        impl<'de> Visitor<'de> for AddressOrObject {
            type Value = StaticEndpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or an object with an address and labels")
            }

            fn visit_str<E: Error>(self, address: &str) -> Result<StaticEndpoint, E> {
                Ok(StaticEndpoint::Address(address.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StaticEndpoint, A::Error> {
                LabelledEndpoint::deserialize(MapAccessDeserializer::new(map)).map(StaticEndpoint::Labelled)
            }
        }

        deserializer.deserialize_any(AddressOrObject)
    }
}

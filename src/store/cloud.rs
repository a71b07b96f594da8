//! Opening cloud stores from the environment and the URL, without the library's retries.
//!
//! Invariant: a setting that cannot be right is refused here, by name, before the first request. The library would send
//! requests that cannot succeed and name neither the reason nor the setting.

use std::sync::Arc;

use object_store::ObjectStore;

use crate::error::{Error, Result};

#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
use settings::Settings;

/// Declares the function that opens one kind of cloud store.
macro_rules! cloud {
    ($name:ident, $feature:literal, $builder:path, $key:path, $settings:expr) => {
        #[cfg(feature = $feature)]
        pub(super) fn $name(url: &str, shown: &str, settings: &[(&str, &str)]) -> Result<Arc<dyn ObjectStore>> {
            use super::http::{Connector, MachineCredentials};
            use object_store::{ClientConfigKey, RetryConfig};
            use $builder as Builder;
            use $key as Key;

            let names: &'static Settings = &$settings;
            let mut builder = Builder::from_env();
            for (name, value) in settings {
                let key: Key =
                    name.to_ascii_lowercase().parse().map_err(|_| super::url::unknown_setting(name, shown))?;
                builder = builder.with_config(key, *value);
            }
            let value = |name: &str| builder.get_config_value(&name.to_ascii_lowercase().parse::<Key>().ok()?);
            names.check(value)?;
            let machine = !names.identity.iter().any(|name| value(name).is_some());
            // `StoreSettings::call_timeout` applies; the library's shorter default would cut off large packs.
            let timeout = Key::Client(ClientConfigKey::Timeout);
            let builder = builder
                .with_url(url)
                .with_http_connector(Connector::new(names.place))
                .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
                .with_config(timeout, "1 hour");
            let failed = |source| names.unusable(shown).with_source(source);
            let store = builder.clone().build().map_err(failed)?;
            if !machine {
                return Ok(Arc::new(store));
            }
            let credentials = MachineCredentials::new(store.credentials().clone(), names.credentials);
            Ok(Arc::new(builder.with_credentials(Arc::new(credentials)).build().map_err(failed)?))
        }

        #[cfg(not(feature = $feature))]
        pub(super) fn $name(_url: &str, shown: &str, _settings: &[(&str, &str)]) -> Result<Arc<dyn ObjectStore>> {
            let message = concat!("this build lacks the feature `", $feature, "` that this store needs");
            Err(Error::config(message).with("url", shown))
        }
    };
}

cloud!(s3, "aws", object_store::aws::AmazonS3Builder, object_store::aws::AmazonS3ConfigKey, settings::S3);
cloud!(
    azure,
    "azure",
    object_store::azure::MicrosoftAzureBuilder,
    object_store::azure::AzureConfigKey,
    settings::AZURE
);
cloud!(gcs, "gcp", object_store::gcp::GoogleCloudStorageBuilder, object_store::gcp::GoogleConfigKey, settings::GCS);

/// The names of each store's settings, and checks of their values.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod settings {
    use url::Url;

    use super::{Error, Result};

    /// Names of a store's settings, which are those of the environment variables.
    pub(super) struct Settings {
        /// The endpoint, in order of precedence.
        endpoints: &'static [&'static str],
        /// Allows an endpoint without TLS.
        allow_http: &'static str,
        /// The region, used if no endpoint is set.
        region: Option<&'static str>,
        /// Sources of credentials. If none is set, the machine's metadata service is asked.
        pub(super) identity: &'static [&'static str],
        /// The settings to name to a user who lacks credentials.
        pub(super) credentials: &'static str,
        /// The settings to name to a user whose store cannot be reached.
        pub(super) place: &'static str,
    }

    #[cfg(feature = "aws")]
    pub(super) const S3: Settings = Settings {
        endpoints: &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"],
        allow_http: "AWS_ALLOW_HTTP",
        region: Some("AWS_REGION"),
        identity: &[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ],
        credentials: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        place: "AWS_ENDPOINT, AWS_REGION and AWS_ALLOW_HTTP",
    };

    #[cfg(feature = "azure")]
    pub(super) const AZURE: Settings = Settings {
        endpoints: &["AZURE_STORAGE_ENDPOINT"],
        allow_http: "AZURE_ALLOW_HTTP",
        region: None,
        identity: &[
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_TOKEN",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
            "AZURE_FABRIC_TOKEN_SERVICE_URL",
            "AZURE_MSI_ENDPOINT",
            "AZURE_CREDENTIAL_TYPE",
        ],
        credentials: "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY",
        place: "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ENDPOINT and AZURE_ALLOW_HTTP",
    };

    #[cfg(feature = "gcp")]
    pub(super) const GCS: Settings = Settings {
        endpoints: &["GOOGLE_BASE_URL"],
        allow_http: "GOOGLE_ALLOW_HTTP",
        region: None,
        identity: &[
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GOOGLE_BEARER_TOKEN",
        ],
        credentials: "GOOGLE_SERVICE_ACCOUNT",
        place: "GOOGLE_BASE_URL and GOOGLE_ALLOW_HTTP",
    };

    impl Settings {
        /// Refuses endpoints and regions that cannot be right. Errors omit the values: any may hold a secret by
        /// mistake.
        pub(super) fn check(&self, value: impl Fn(&str) -> Option<String>) -> Result<()> {
            let endpoint = self.endpoints.iter().find_map(|name| Some((name, value(name)?)));
            let Some((name, endpoint)) = endpoint else {
                return match self.region.and_then(|name| Some((name, value(name)?))) {
                    Some((name, region)) if !is_region(&region) => {
                        Err(Error::config(format!("{name} is not the name of a region, such as eu-central-1")))
                    }
                    _ => Ok(()),
                };
            };
            let url = Url::parse(&endpoint).ok().filter(Url::has_host);
            match url.as_ref().map(Url::scheme) {
                Some("https") => Ok(()),
                Some("http") if value(self.allow_http).is_some_and(|allowed| is_true(&allowed)) => Ok(()),
                Some("http") => {
                    let allow = self.allow_http;
                    Err(Error::config(format!("{name} is http, which is refused unless {allow}=true")))
                }
                _ => Err(Error::config(format!("{name} is not the url of a server: write https://host:port"))),
            }
        }

        /// Returns the error for settings that the library rejects.
        pub(super) fn unusable(&self, shown: &str) -> Error {
            let Self { place, credentials, .. } = self;
            let message = format!("cannot open the store: look at {credentials}, and at {place}");
            Error::config(message).with("url", shown)
        }
    }

    /// Returns whether the library parses `text` as true.
    fn is_true(text: &str) -> bool {
        ["1", "true", "on", "yes", "y"].contains(&text.to_ascii_lowercase().as_str())
    }

    /// Returns whether `name` is a plausible region, which becomes part of a host name.
    fn is_region(name: &str) -> bool {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        name.contains('-') && name.ends_with(|c: char| c.is_ascii_digit()) && name.chars().all(known)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[cfg(feature = "aws")]
        #[test]
        fn an_impossible_endpoint_is_refused_by_the_name_of_its_setting() {
            let check = |set: &[(&str, &str)]| {
                S3.check(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned()))
            };
            for (set, named) in [
                (&[("AWS_ENDPOINT", "localhost:9000")][..], "AWS_ENDPOINT"),
                (&[("AWS_ENDPOINT", "SECRET")], "AWS_ENDPOINT"),
                (&[("AWS_ENDPOINT", "ftp://host")], "AWS_ENDPOINT"),
                (&[("AWS_ENDPOINT", "http://127.0.0.1:1")], "AWS_ALLOW_HTTP"),
                (&[("AWS_ENDPOINT", "http://127.0.0.1:1"), ("AWS_ALLOW_HTTP", "no")], "AWS_ALLOW_HTTP"),
                (&[("AWS_ENDPOINT_URL_S3", "host"), ("AWS_ENDPOINT", "https://host")], "AWS_ENDPOINT_URL_S3"),
                (&[("AWS_REGION", "nowhere")], "AWS_REGION"),
                (&[("AWS_REGION", "EU central 1")], "AWS_REGION"),
            ] {
                let error = check(set).unwrap_err();
                assert!(error.message().contains(named) && !error.message().contains("SECRET"), "{set:?}: {error}");
            }
            for set in [
                &[("AWS_ENDPOINT", "https://host/path"), ("AWS_REGION", "auto")][..],
                &[("AWS_ENDPOINT", "http://[::1]:9000"), ("AWS_ALLOW_HTTP", "TRUE")],
                &[("AWS_REGION", "us-gov-east-1")],
                &[],
            ] {
                check(set).unwrap();
            }
        }
    }
}

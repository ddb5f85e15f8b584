//! Object stores of cloud providers: their options.
//!
//! A store made here never calls again what failed; [`RetryStore`](super::RetryStore) around it does, and knows what to
//! make of an exclusive create whose answer got lost.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::{ObjectArtifactStore, check_key};
use crate::{Error, Result};

/// What the options of all providers have in common.
#[derive(Clone, Debug)]
struct Common {
    folder: Option<String>,
    endpoint: Option<String>,
    allow_http: bool,
    timeout: Duration,
    /// Whether it was said how to sign, or not to.
    credentials: bool,
}

impl Common {
    fn new() -> Self {
        Self { folder: None, endpoint: None, allow_http: false, timeout: Duration::from_secs(60), credentials: false }
    }

    fn check(&self) -> Result<()> {
        if !self.credentials {
            return Err(Error::invalid("credentials", "are missing: give some, or say that requests are anonymous"));
        }
        if self.timeout.is_zero() {
            return Err(Error::invalid("timeout", "must be more than 0"));
        }
        let plain = |endpoint: &String| endpoint.starts_with("http://");
        if self.endpoint.as_ref().is_some_and(plain) && !self.allow_http {
            return Err(Error::invalid(
                "endpoint",
                "is http://, which is neither secret nor safe: allow_http allows it",
            ));
        }
        Ok(())
    }

    fn client(&self) -> ClientOptions {
        let connect = self.timeout.min(Duration::from_secs(10));
        ClientOptions::new().with_allow_http(self.allow_http).with_timeout(self.timeout).with_connect_timeout(connect)
    }

    fn store(&self, inner: Result<impl ObjectStore, object_store::Error>, name: String) -> Result<ObjectArtifactStore> {
        // The error may quote options, but no secret.
        let inner = inner.map_err(|error| Error::invalid("object store", error))?;
        Ok(match &self.folder {
            None => ObjectArtifactStore::new(Arc::new(inner), name),
            Some(folder) => {
                check_key(folder)?;
                let name = format!("{name}/{folder}");
                ObjectArtifactStore::new(Arc::new(PrefixStore::new(inner, folder.as_str())), name)
            }
        })
    }
}

fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// The setters that the options of all providers have.
macro_rules! common_options {
    ($options:ident) => {
        impl $options {
            /// Keeps everything under this folder of the bucket.
            pub fn folder(mut self, folder: impl Into<String>) -> Self {
                self.common.folder = Some(folder.into());
                self
            }

            /// The server's URL, if it is not the provider's own.
            pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
                self.common.endpoint = Some(endpoint.into());
                self
            }

            /// Allows an endpoint without encryption: for servers on the same machine (default: no).
            pub fn allow_http(mut self, allow_http: bool) -> Self {
                self.common.allow_http = allow_http;
                self
            }

            /// How long one request may take, its body included (default 60 seconds); connecting, ten seconds of it.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.common.timeout = timeout;
                self
            }

            /// Does not sign requests.
            pub fn anonymous(mut self) -> Self {
                self.common.credentials = true;
                self.builder = self.builder.with_skip_signature(true);
                self
            }
        }

        impl fmt::Debug for $options {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let options = &self.common;
                f.debug_struct(stringify!($options))
                    .field("bucket", &self.bucket)
                    .field("folder", &options.folder)
                    .field("endpoint", &options.endpoint)
                    .field("allow_http", &options.allow_http)
                    .field("timeout", &options.timeout)
                    .field("credentials", &"***")
                    .finish()
            }
        }
    };
}

/// Options of a store in Amazon S3, or in any server that speaks its protocol and does conditional writes.
///
/// ```
/// use mlops_core::store::{RetryStore, S3Options};
/// let options = S3Options::new("models").region("eu-central-1").access_key("AKIA…", "secret").folder("prod");
/// assert!(!format!("{options:?}").contains("secret"));
/// let store = RetryStore::new(options.build()?);
/// assert_eq!(store.to_string(), "s3://models/prod");
/// # Ok::<(), mlops_core::Error>(())
/// ```
///
/// Exclusive create is `If-None-Match: *`; a server that ignores it breaks the contract. One object is written in one
/// request: at most 5 GiB, and in practice what fits in memory and the time-out; blobs have no such limit. Nothing is read
/// from the environment but by [`from_env`](Self::from_env), and proxies by the HTTP client (`HTTPS_PROXY`, `NO_PROXY`).
#[cfg(feature = "s3")]
#[cfg_attr(docsrs, doc(cfg(feature = "s3")))]
#[derive(Clone)]
#[must_use = "options do nothing until `build`"]
pub struct S3Options {
    bucket: String,
    common: Common,
    builder: object_store::aws::AmazonS3Builder,
}

#[cfg(feature = "s3")]
common_options!(S3Options);

#[cfg(feature = "s3")]
impl S3Options {
    /// A bucket, in region `us-east-1` unless told otherwise.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), common: Common::new(), builder: object_store::aws::AmazonS3Builder::new() }
    }

    /// A bucket, with region, endpoint and credentials from the variables `AWS_…` as the AWS tools read them.
    pub fn from_env(bucket: impl Into<String>) -> Self {
        let (mut common, builder) = (Common::new(), object_store::aws::AmazonS3Builder::from_env());
        common.credentials = true;
        Self { bucket: bucket.into(), common, builder }
    }

    /// The bucket's region.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.builder = self.builder.with_region(region);
        self
    }

    /// A key and its secret.
    pub fn access_key(mut self, id: impl Into<String>, secret: impl Into<String>) -> Self {
        self.common.credentials = true;
        self.builder = self.builder.with_access_key_id(id).with_secret_access_key(secret);
        self
    }

    /// The token that belongs to a temporary key.
    pub fn session_token(mut self, token: impl Into<String>) -> Self {
        self.builder = self.builder.with_token(token);
        self
    }

    /// Credentials of the machine's role, from the instance metadata service.
    pub fn instance_role(mut self) -> Self {
        self.common.credentials = true;
        self
    }

    /// Puts the bucket into the host name of requests, rather than into their path (default: no).
    pub fn virtual_hosted(mut self, virtual_hosted: bool) -> Self {
        self.builder = self.builder.with_virtual_hosted_style_request(virtual_hosted);
        self
    }

    /// The store. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the option that is missing or does not fit.
    pub fn build(self) -> Result<ObjectArtifactStore> {
        self.common.check()?;
        let mut builder = self
            .builder
            .with_bucket_name(&self.bucket)
            .with_client_options(self.common.client())
            .with_conditional_put(object_store::aws::S3ConditionalPut::ETagMatch)
            .with_retry(once());
        if let Some(endpoint) = &self.common.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        self.common.store(builder.build(), format!("s3://{}", self.bucket))
    }
}

/// Options of a store in Google Cloud Storage; limits and environment as for `S3Options`.
///
/// ```
/// let options = mlops_core::store::GcsOptions::new("models").anonymous();
/// assert_eq!(options.build()?.to_string(), "gs://models");
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[cfg(feature = "gcs")]
#[cfg_attr(docsrs, doc(cfg(feature = "gcs")))]
#[derive(Clone)]
#[must_use = "options do nothing until `build`"]
pub struct GcsOptions {
    bucket: String,
    common: Common,
    builder: object_store::gcp::GoogleCloudStorageBuilder,
}

#[cfg(feature = "gcs")]
common_options!(GcsOptions);

#[cfg(feature = "gcs")]
impl GcsOptions {
    /// A bucket.
    pub fn new(bucket: impl Into<String>) -> Self {
        let builder = object_store::gcp::GoogleCloudStorageBuilder::new();
        Self { bucket: bucket.into(), common: Common::new(), builder }
    }

    /// A bucket, with credentials from the variables `GOOGLE_…` or the machine, as Google's tools find them.
    pub fn from_env(bucket: impl Into<String>) -> Self {
        let (mut common, builder) = (Common::new(), object_store::gcp::GoogleCloudStorageBuilder::from_env());
        common.credentials = true;
        Self { bucket: bucket.into(), common, builder }
    }

    /// The key of a service account, as JSON.
    pub fn service_account_key(mut self, json: impl Into<String>) -> Self {
        self.common.credentials = true;
        self.builder = self.builder.with_service_account_key(json);
        self
    }

    /// The store. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the option that is missing or does not fit.
    pub fn build(self) -> Result<ObjectArtifactStore> {
        self.common.check()?;
        let builder = self.builder.with_bucket_name(&self.bucket);
        let mut builder = builder.with_client_options(self.common.client()).with_retry(once());
        if let Some(endpoint) = &self.common.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        self.common.store(builder.build(), format!("gs://{}", self.bucket))
    }
}

/// Options of a store in Azure Blob Storage; limits and environment as for `S3Options`. Its bucket is called container.
///
/// ```
/// let options = mlops_core::store::AzureOptions::new("account", "models").access_key("c2VjcmV0");
/// assert!(!format!("{options:?}").contains("c2VjcmV0"));
/// assert_eq!(options.build()?.to_string(), "az://account/models");
/// # Ok::<(), mlops_core::Error>(())
/// ```
#[cfg(feature = "azure")]
#[cfg_attr(docsrs, doc(cfg(feature = "azure")))]
#[derive(Clone)]
#[must_use = "options do nothing until `build`"]
pub struct AzureOptions {
    bucket: String,
    account: String,
    common: Common,
    builder: object_store::azure::MicrosoftAzureBuilder,
}

#[cfg(feature = "azure")]
common_options!(AzureOptions);

#[cfg(feature = "azure")]
impl AzureOptions {
    /// A container of a storage account.
    pub fn new(account: impl Into<String>, container: impl Into<String>) -> Self {
        let builder = object_store::azure::MicrosoftAzureBuilder::new();
        Self { bucket: container.into(), account: account.into(), common: Common::new(), builder }
    }

    /// A container, with credentials from the variables `AZURE_…`.
    pub fn from_env(account: impl Into<String>, container: impl Into<String>) -> Self {
        let mut options = Self::new(account, container);
        options.common.credentials = true;
        options.builder = object_store::azure::MicrosoftAzureBuilder::from_env();
        options
    }

    /// The account's key, in base 64.
    pub fn access_key(mut self, key: impl Into<String>) -> Self {
        self.common.credentials = true;
        self.builder = self.builder.with_access_key(key);
        self
    }

    /// A bearer token.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.common.credentials = true;
        self.builder = self.builder.with_bearer_token_authorization(token);
        self
    }

    /// The store. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the option that is missing or does not fit.
    pub fn build(self) -> Result<ObjectArtifactStore> {
        self.common.check()?;
        let builder = self.builder.with_account(&self.account).with_container_name(&self.bucket);
        let mut builder = builder.with_client_options(self.common.client()).with_retry(once());
        if let Some(endpoint) = &self.common.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        self.common.store(builder.build(), format!("az://{}/{}", self.account, self.bucket))
    }
}

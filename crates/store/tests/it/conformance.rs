//! Every case on every store.

use overnight_store::{ModelStore, SqliteStore, conformance};

macro_rules! on_sqlite {
    ($($module:ident: $($case:ident),+;)+) => {
        mod sqlite {
            $(mod $module {
                $(#[tokio::test]
                async fn $case() {
                    let folder = tempfile::tempdir().unwrap();
                    let store = super::super::SqliteStore::open(folder.path().join("overnight.db")).unwrap();
                    super::super::conformance::run(stringify!($module), stringify!($case), &store).await;
                })+
            })+
        }
    };
}
overnight_store::conformance_cases!(on_sqlite);

macro_rules! on_model {
    ($($module:ident: $($case:ident),+;)+) => {
        mod model {
            $(mod $module {
                $(#[tokio::test]
                async fn $case() {
                    let store = super::super::ModelStore::new();
                    super::super::conformance::run(stringify!($module), stringify!($case), &store).await;
                })+
            })+
        }
    };
}
overnight_store::conformance_cases!(on_model);

//! The users who may sign in to the web page.

use model::UserName;

use super::calls::Answer;
use super::{Ask, Client};
use crate::{AddUser, SetPassword, UserView};

impl Client {
    pub async fn users(&self) -> Answer<Vec<UserView>> {
        self.fetch(Ask::get("/v1/users", "list the users")).await
    }

    pub async fn add_user(&self, request: &AddUser) -> Answer<UserView> {
        let asked = format!("add the user '{}'", request.name);
        self.fetch(Ask::post("/v1/users", asked).json(request)?).await
    }

    pub async fn set_password(&self, name: &UserName, request: &SetPassword) -> Answer<UserView> {
        let asked = format!("change the password of '{name}'");
        self.fetch(Ask::put(format!("/v1/users/{name}/password"), asked).json(request)?).await
    }

    /// The user's sessions end.
    pub async fn remove_user(&self, name: &UserName) -> Answer<()> {
        self.done(Ask::delete(format!("/v1/users/{name}"), format!("remove the user '{name}'"))).await
    }
}

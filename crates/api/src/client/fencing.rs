//! Asking about fence devices, and for hosts' power to be taken and given.

use model::{DeviceName, Fence, HostName};

use super::calls::Answer;
use super::{Ask, Client};
use crate::{AddFenceDevice, FenceDeviceView, FenceHost, FenceTestView};

impl Client {
    /// Takes as long as the device takes to answer.
    pub async fn add_fence_device(
        &self,
        host: &HostName,
        request: &AddFenceDevice,
    ) -> Answer<FenceDeviceView> {
        let asked = format!("give the host '{host}' the fence device '{}'", request.name);
        self.fetch(Ask::post(format!("/v1/hosts/{host}/fence-devices"), asked).json(request)?.endless()).await
    }

    pub async fn remove_fence_device(&self, host: &HostName, device: &DeviceName) -> Answer<()> {
        let asked = format!("remove the fence device '{device}' of '{host}'");
        self.done(Ask::delete(format!("/v1/hosts/{host}/fence-devices/{device}"), asked)).await
    }

    /// Answers at once; [`Client::host`] shows how it goes.
    pub async fn fence_host(&self, host: &HostName, request: &FenceHost) -> Answer<Fence> {
        let asked = format!("fence the host '{host}'");
        self.fetch(Ask::post(format!("/v1/hosts/{host}/fence"), asked).json(request)?).await
    }

    /// Takes as long as the devices take.
    pub async fn unfence_host(&self, host: &HostName) -> Answer<FenceTestView> {
        let asked = format!("unfence the host '{host}'");
        self.fetch(Ask::post(format!("/v1/hosts/{host}/unfence"), asked).endless()).await
    }

    /// Takes as long as the devices take.
    pub async fn test_fence_devices(&self, host: &HostName) -> Answer<FenceTestView> {
        let asked = format!("test the fence devices of '{host}'");
        self.fetch(Ask::post(format!("/v1/hosts/{host}/fence-test"), asked).endless()).await
    }
}

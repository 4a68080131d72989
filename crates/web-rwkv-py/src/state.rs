//! The class `State`.

use std::path::PathBuf;

use numpy::{PyArray1, ndarray::ArrayView1};
use pyo3::{prelude::*, types::PyBytes};
use web_rwkv_gguf as engine;

use crate::{error::raise, info::StateDevice};

/// The recurrent state of one sequence, a value that never changes: f32 `[L, N + 2, C]`.
///
/// For each layer row 0 is the token shift of the time mix, rows 1 to N are the WKV state (row = key index j,
/// column = head * N + value index i), row N + 1 is the token shift of the channel mix.
///
/// States can be compared, copied and pickled; `bytes(state)` is what `save` writes, and `State(data)` reads it.
#[pyclass(module = "web_rwkv_py", frozen, eq)]
#[derive(Clone, PartialEq)]
pub(crate) struct State(pub(crate) engine::State);

#[pymethods]
impl State {
    #[new]
    fn new(py: Python<'_>, data: &Bound<'_, PyBytes>) -> PyResult<Self> {
        let data = data.as_bytes();
        py.detach(|| engine::State::from_bytes("state", data)).map(Self).map_err(raise)
    }

    /// Reads the file of a state. Which model it is of is checked where it is used.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| engine::State::load(path)).map(Self).map_err(raise)
    }

    /// Writes the state to a file, with the model's fingerprint.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.save(path)).map_err(raise)
    }

    /// The sizes `(L, N + 2, C)`; `to_numpy().reshape(shape)` has them.
    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        self.0.dims().into()
    }

    /// The buffer, f32 `[L * (N + 2) * C]`, without a copy: a read-only view that keeps the state alive.
    ///
    /// Take `.copy()` of it, or `Model.back_state_numpy`, for an array to write to.
    fn to_numpy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let data = ArrayView1::from(slf.get().0.as_slice());
        // SAFETY: the array holds a reference to the state, whose buffer is never moved or written: the class
        // is frozen and nothing in it has interior mutability. And numpy never writes to it, as the array is
        // made read-only before anyone has it, and cannot be made writeable: a State exports no buffer.
        let array = unsafe { PyArray1::borrow_from_array(&data, slf.clone().into_any()) };
        array.call_method1("setflags", (false,))?;
        Ok(array)
    }

    /// The buffer as a list of `L * (N + 2) * C` numbers; slow, `to_numpy` is not.
    fn to_list(&self) -> Vec<f32> {
        self.0.as_slice().to_vec()
    }

    /// A state of its own with the same contents.
    fn deep_clone(&self, py: Python<'_>) -> Self {
        py.detach(|| self.clone())
    }

    /// Where the state is kept.
    fn device(&self) -> StateDevice {
        StateDevice::Cpu
    }

    /// The state on another device.
    fn to(slf: Py<Self>, device: StateDevice) -> PyResult<Py<Self>> {
        device.check()?;
        Ok(slf)
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        self.deep_clone(py)
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> Self {
        self.deep_clone(py)
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &py.detach(|| self.0.to_bytes()))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyAny>, (Bound<'py, PyBytes>,)) {
        (slf.get_type().into_any(), (slf.get().__bytes__(slf.py()),))
    }

    fn __repr__(&self) -> String {
        format!("State{:?}", self.shape())
    }
}

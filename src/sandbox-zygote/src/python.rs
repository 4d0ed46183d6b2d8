//! The few pieces of CPython's stable ABI that are needed, declared by hand: no headers, no build of Python at hand.

use std::ffi::{CStr, c_char, c_int, c_long};
use std::ptr;

/// An object; only pointers to it are ever used.
#[repr(C)]
pub struct PyObject {
    _private: [u8; 0],
}

type Function = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;

#[repr(C)]
struct Method {
    name: *const c_char,
    function: Option<Function>,
    flags: c_int,
    doc: *const c_char,
}

/// `PyModuleDef`. Its head is an object header (reference count and type) and three words of the interpreter's own.
#[repr(C)]
struct ModuleDef {
    refcount: isize,
    kind: *mut PyObject,
    init: *mut PyObject,
    index: isize,
    copy: *mut PyObject,
    name: *const c_char,
    doc: *const c_char,
    size: isize,
    methods: *mut Method,
    slots: *mut PyObject,
    traverse: *mut PyObject,
    clear: *mut PyObject,
    free: *mut PyObject,
}

const METH_VARARGS: c_int = 1;
/// What an extension of the stable ABI says its API version is.
const ABI_VERSION: c_int = 3;

unsafe extern "C" {
    static mut PyExc_RuntimeError: *mut PyObject;
    fn PyModule_Create2(def: *mut ModuleDef, version: c_int) -> *mut PyObject;
    fn PyErr_SetString(kind: *mut PyObject, text: *const c_char);
    fn PyErr_Print();
    fn PyTuple_GetItem(tuple: *mut PyObject, at: isize) -> *mut PyObject;
    fn PyBytes_AsStringAndSize(bytes: *mut PyObject, data: *mut *mut c_char, size: *mut isize) -> c_int;
    fn PyLong_FromLong(n: c_long) -> *mut PyObject;
    fn PyObject_CallFunctionObjArgs(callable: *mut PyObject, ...) -> *mut PyObject;
    fn Py_GetVersion() -> *const c_char;
}

/// "3.11.2 (main, ...)" without what is behind the number.
pub fn version() -> String {
    // SAFETY: the interpreter returns a static string.
    let text = unsafe { CStr::from_ptr(Py_GetVersion()) }.to_string_lossy();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Calls `callable(n)`; prints the traceback when it raises.
pub fn call_with_number(callable: *mut PyObject, n: u32) {
    // SAFETY: the interpreter's lock is held (we are inside of a call from Python, or a fork of one), `callable` is kept
    // alive by the caller's arguments, and the list of arguments ends with NULL.
    unsafe {
        let number = PyLong_FromLong(n.into());
        if PyObject_CallFunctionObjArgs(callable, number, ptr::null_mut::<PyObject>()).is_null() {
            PyErr_Print();
        }
    }
}

unsafe extern "C" fn serve(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let fail = |text: &CStr| {
        // SAFETY: the interpreter's lock is held, and the text outlives the call, which copies it.
        unsafe { PyErr_SetString(PyExc_RuntimeError, text.as_ptr()) };
        ptr::null_mut()
    };
    // SAFETY: called by the interpreter with a tuple of arguments that it keeps alive; the getters check the bounds and
    // types, and the bytes live as long as their object.
    let (hello, child) = unsafe {
        let (mut data, mut size) = (ptr::null_mut(), 0);
        let hello = PyTuple_GetItem(args, 0);
        let child = PyTuple_GetItem(args, 1);
        if hello.is_null()
            || child.is_null()
            || PyBytes_AsStringAndSize(hello, &raw mut data, &raw mut size) != 0
        {
            return ptr::null_mut(); // the exception is set
        }
        (std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(size).unwrap_or(0)), child)
    };
    match crate::serve(hello, child) {
        Ok(()) => std::process::exit(0), // the supervisor is gone
        Err(e) => {
            let text = std::ffi::CString::new(e.to_string().replace('\0', " ")).unwrap_or_default();
            fail(&text)
        }
    }
}

/// Entry of the extension module `bessemer_zygote`.
#[unsafe(no_mangle)]
pub extern "C" fn PyInit_bessemer_zygote() -> *mut PyObject {
    // The interpreter keeps both for as long as the module lives, which is for ever.
    let methods = Box::leak(Box::new([
        Method { name: c"serve".as_ptr(), function: Some(serve), flags: METH_VARARGS, doc: ptr::null() },
        Method { name: ptr::null(), function: None, flags: 0, doc: ptr::null() },
    ]));
    let def = Box::leak(Box::new(ModuleDef {
        refcount: 1,
        kind: ptr::null_mut(),
        init: ptr::null_mut(),
        index: 0,
        copy: ptr::null_mut(),
        name: c"bessemer_zygote".as_ptr(),
        doc: ptr::null(),
        size: -1,
        methods: methods.as_mut_ptr(),
        slots: ptr::null_mut(),
        traverse: ptr::null_mut(),
        clear: ptr::null_mut(),
        free: ptr::null_mut(),
    }));
    // SAFETY: called by the interpreter with its lock held; `def` is laid out as PyModuleDef and lives for ever.
    unsafe { PyModule_Create2(def, ABI_VERSION) }
}
